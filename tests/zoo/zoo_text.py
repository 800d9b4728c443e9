"""The zoo's text: documents of WikiText-2 and C4, split into training and held-out ones, and their tokens."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer
from zoo_families import END_ID, END_TOKEN, PAD_TOKEN, VOCABULARY

_ARTICLE_HEADING = re.compile(r"^ = [^=].*[^=] = \n$")
_HEADING = re.compile(r"^ (= )+.* (= )*=\s*\n$")
_HELD_OUT_EVERY = 20


@dataclass(frozen=True)
class Text:
    train: tuple[str, ...]
    held_out: tuple[str, ...]


def read_text(data: Path) -> Text:
    """Every 20th document is held out. WikiText-2's test split is never read."""
    documents = [
        *_articles(_rows(data / "wikitext2" / "train_first1MB_nonblank.jsonl.gz"), blank_rows=False),
        *_articles(_rows(data / "wikitext2" / "validation.jsonl.gz"), blank_rows=True),
        *_rows(data / "c4" / "train_first1000.jsonl.gz"),
    ]
    held_out = tuple(documents[::_HELD_OUT_EVERY])
    return Text(tuple(text for index, text in enumerate(documents) if index % _HELD_OUT_EVERY), held_out)


def train_tokenizer(documents: tuple[str, ...]) -> Tokenizer:
    """A byte-level BPE that splits text as Qwen2's: transformers does so for a Qwen2 model whatever its file says."""
    pipeline = Qwen2Tokenizer(vocab={END_TOKEN: 0}, merges=[]).backend_tokenizer
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = pipeline.normalizer
    tokenizer.pre_tokenizer = pipeline.pre_tokenizer
    tokenizer.decoder = pipeline.decoder
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_TOKEN, PAD_TOKEN],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def for_transformers(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_TOKEN, eos_token=END_TOKEN, pad_token=PAD_TOKEN
    )


def encode(tokenizer: Tokenizer, documents: tuple[str, ...]) -> torch.Tensor:
    """All documents in one row of int64 tokens, an end-of-text token before each."""
    encoded = (token for one in tokenizer.encode_batch(list(documents)) for token in (END_ID, *one.ids))
    return torch.tensor(list(encoded), dtype=torch.int64)


def _rows(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def _articles(rows: list[str], *, blank_rows: bool) -> Iterator[str]:
    """The rows of each article with blank lines between them, as perplexity on WikiText-2 is computed.

    Without `blank_rows` the file lacks the blank rows around headings, which are put back.
    """
    article: list[str] = []
    for row in rows:
        if _ARTICLE_HEADING.match(row) and article:
            yield "\n\n".join(article)
            article = []
        article += ["", row, ""] if _HEADING.match(row) and not blank_rows else [row]
    yield "\n\n".join(article)
