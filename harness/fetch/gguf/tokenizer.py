"""The tokenizer of a GGUF file, built from its own vocabulary, and held against it before anything is computed with it.

transformers' own conversion is not used: of Gemma it merges in another order (perplexity 7126 where 11 is right), it
leaves out the beginning token, and takes the id of that for the one that ends a text.
"""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.contract.gguf import BYTE_LEVEL_SPLITS, GgufVocabulary, TokenType
from harness.errors import BadCheckpoint
from harness.fetch.gguf.plain_tokens import PlainTokenizer
from harness.fetch.sentencepiece import Piece, SentencePieceModel, build_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PROBES = (
    "Hello world, it's 2024: 1,234.5 apples don't cost $3.99 (or do they?)",
    "def f(x):\n    return x ** 2  # squared\n\n\tif x != 0x1F:\n",
    "Größe, naïve café, Ελληνικά, Русский, 日本語の文章, 한국어, हिन्दी, عربي, עברית, ไทย 🙂👩‍💻 ﬁ e\u0301",
    " two  blanks   before\r\nand after  an <unk> word ",
)
_DRAWN_PIECES = 200
_SPECIAL = (TokenType.CONTROL, TokenType.UNKNOWN)


def write_tokenizer(vocabulary: GgufVocabulary, context_tokens: int, folder: Path) -> None:
    """Write the tokenizer's files into `folder`.

    Raises:
        BadCheckpoint: what was built does not give the tokens that the vocabulary's own rule does.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = _scored(vocabulary) if vocabulary.by_score else _byte_level(vocabulary)
    _add_tokens(tokenizer, vocabulary)
    _add_ends(tokenizer, vocabulary)
    named = {
        "bos_token": vocabulary.begin_id,
        "eos_token": vocabulary.end_id,
        "unk_token": vocabulary.unknown_id,
        "pad_token": vocabulary.padding_id,
    }
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        **{name: vocabulary.tokens[number] for name, number in named.items() if number is not None},
        **({"chat_template": vocabulary.chat_template} if vocabulary.chat_template else {}),
        model_max_length=context_tokens,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    check(AutoTokenizer.from_pretrained(folder, local_files_only=True), vocabulary)


def check(tokenizer: Any, vocabulary: GgufVocabulary) -> None:
    """Hold a tokenizer of transformers against the vocabulary of the file.

    Raises:
        BadCheckpoint: a token has another id, or a probe becomes other tokens than by the vocabulary's own rule.
    """
    numbers = range(len(vocabulary.tokens))
    found = tokenizer.convert_ids_to_tokens(list(numbers))
    if wrong := next((number for number in numbers if found[number] != vocabulary.tokens[number]), None):
        raise _differs(f"its token {wrong} is {found[wrong]!r}, in the file {vocabulary.tokens[wrong]!r}")
    first = [vocabulary.begin_id] if vocabulary.adds_begin else []
    last = [vocabulary.end_id] if vocabulary.adds_end else []
    plain = PlainTokenizer(vocabulary)
    for text in (*_PROBES, _drawn(vocabulary)):
        ids = tokenizer(text)["input_ids"]
        expected = [*first, *_with_added(vocabulary, plain, text), *last]
        if ids != expected:
            at = next((at for at, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1]), -1)
            raise _differs(f"of {text[:40]!r}… it makes the tokens …{ids[at : at + 4]}, not …{expected[at : at + 4]}")


def _differs(how: str) -> BadCheckpoint:
    return BadCheckpoint(
        f"the tokenizer that is made of the GGUF file's vocabulary does not agree with it: {how}",
        hint="give the model as safetensors with its own tokenizer (`hub:` or `dir:`)",
    )


def _drawn(vocabulary: GgufVocabulary) -> str:
    """Words of the vocabulary, drawn the same every time, with blanks between as the tokens have them."""
    normal = vocabulary.of_type(TokenType.NORMAL) or (0,)
    drawn = [vocabulary.tokens[number] for number in random.Random(0).choices(normal, k=_DRAWN_PIECES)]  # noqa: S311
    if vocabulary.by_score:
        return "".join(drawn).replace("▁", " ").strip()
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]
    spelt = [bytes(letters[letter] for letter in piece) for piece in drawn if all(one in letters for one in piece)]
    return b"".join(spelt).decode("utf-8", errors="ignore")


def _with_added(vocabulary: GgufVocabulary, plain: PlainTokenizer, text: str) -> list[int]:
    """The tokens of a text that may hold added ones: the longest of these first, wherever it stands."""
    import re

    added = {vocabulary.tokens[number]: number for number in _added(vocabulary)}
    texts = sorted(added, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, texts))})", text) if texts else [text]
    ids: list[int] = []
    for part in filter(None, parts):
        ids += [added[part]] if part in added else plain.tokens(part)
    return ids


def _added(vocabulary: GgufVocabulary) -> tuple[int, ...]:
    """What is found in text before anything is split or joined."""
    return vocabulary.of_type(*_SPECIAL, TokenType.USER_DEFINED)


def _scored(vocabulary: GgufVocabulary) -> "Tokenizer":
    pieces = zip(vocabulary.tokens, vocabulary.scores, vocabulary.types, strict=True)
    model = SentencePieceModel(
        pieces=tuple(Piece(text, score, kind) for text, score, kind in pieces),
        unknown=None if vocabulary.unknown_id is None else vocabulary.tokens[vocabulary.unknown_id],
        byte_fallback=bool(vocabulary.of_type(TokenType.BYTE)),
        dummy_prefix=vocabulary.blank_before,
        squeeze_blanks=vocabulary.squeeze_blanks,
    )
    return build_tokenizer(model, ())


def _byte_level(vocabulary: GgufVocabulary) -> "Tokenizer":
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    numbered = {token: number for number, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.BPE(numbered, list(vocabulary.merges), ignore_merges=vocabulary.whole_words_first))
    if vocabulary.composed:
        tokenizer.normalizer = normalizers.NFC()
    patterns = BYTE_LEVEL_SPLITS[str(vocabulary.split)]
    splits: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _add_tokens(tokenizer: "Tokenizer", vocabulary: GgufVocabulary) -> None:
    from tokenizers import AddedToken

    for kinds, add in ((_SPECIAL, tokenizer.add_special_tokens), ((TokenType.USER_DEFINED,), tokenizer.add_tokens)):
        texts = [vocabulary.tokens[number] for number in vocabulary.of_type(*kinds)]
        add([AddedToken(text, special=kinds is _SPECIAL, normalized=False) for text in texts])


def _add_ends(tokenizer: "Tokenizer", vocabulary: GgufVocabulary) -> None:
    """The tokens that every text begins and ends with."""
    from tokenizers import processors

    begin = [vocabulary.begin_id] if vocabulary.adds_begin else []
    end = [vocabulary.end_id] if vocabulary.adds_end else []
    named = [(vocabulary.tokens[number], number) for number in (*begin, *end) if number is not None]
    if named:
        first, last = ([vocabulary.tokens[number] for number in one if number is not None] for one in (begin, end))
        again = [[f"{token}:1" for token in one] for one in (first, last)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", *last],
            pair=[*first, "$A", *last, *again[0], "$B:1", *again[1]],
            special_tokens=named,
        )
