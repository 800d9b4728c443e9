"""Calibration token sequences, drawn from a data set artifact by a named policy.

`crop` is the rule of the SparseGPT, Wanda and GPTQ code for C4: pick a random document that is longer than the
sequence, then a random crop of it. `window` is their rule for WikiText-2: join all rows, then take random windows.
`packed` is ours, for a set whose documents are too few or too short to crop: shuffle them, join their tokens, and cut
without overlap.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.checkpoint import open_dataset, read_rows
from harness.contract import Calibration, DatasetDescriptor
from harness.errors import BadRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Policy(StrEnum):
    CROP = "crop"
    WINDOW = "window"
    PACKED = "packed"


@dataclass(frozen=True)
class CalibrationSet:
    """`tokens`: int64 [samples, sequence_length], on the host. `notes` say what was drawn from where, and how."""

    tokens: torch.Tensor
    policy: Policy
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Drawn:
    tokens: list[list[int]]
    policy: Policy
    reason: str


TEXT_FIELDS = {"c4": "text", "wikitext2": "text", "boolq": "passage"}
_USUAL_TEXT_FIELDS = ("text", "passage", "content")
_JOINED_SETS = frozenset({"wikitext2"})
_JOINER = " "
_SPLITS = ("train", "validation")
_EVALUATED_SETS = frozenset(
    {
        "adv_glue",
        "arc_challenge",
        "arc_easy",
        "hellaswag",
        "mmlu",
        "mnli",
        "piqa",
        "qnli",
        "truthfulqa",
        "wikitext2",
        "winogrande",
    }
)


def draw_calibration(folder: Path, tokenizer: "PreTrainedTokenizerBase", asked: Calibration) -> CalibrationSet:
    """Draw `asked.samples` sequences; the same artifact, tokenizer and seed always give the same ones.

    Raises:
        BadCheckpoint: the folder is not a published data set.
        BadRequest: the set has no text, no training or validation split, or too little text for one sequence.
    """
    descriptor = open_dataset(folder)
    split = _choose_split(descriptor)
    texts = _read_texts(folder, descriptor.name, split)
    rule = _draw_windows if descriptor.name in _JOINED_SETS else _draw_documents
    drawn = rule(texts, tokenizer, asked)
    return CalibrationSet(
        tokens=torch.tensor(drawn.tokens, dtype=torch.int64),
        policy=drawn.policy,
        notes=tuple(_describe(descriptor, split, asked, drawn)),
    )


def _describe(descriptor: DatasetDescriptor, split: str, asked: Calibration, drawn: _Drawn) -> Iterator[str]:
    yield (
        f"calibration: {asked.samples} sequences of {asked.sequence_length} tokens from {descriptor.name} {split} "
        f"({descriptor.origin}), seed {asked.seed}, policy {drawn.policy.value}: {drawn.reason}"
    )
    if descriptor.name != asked.dataset:
        yield f"calibration: {asked.dataset} was asked for, {descriptor.name} stands in for it"
    if descriptor.name in _EVALUATED_SETS:
        yield f"calibration: {descriptor.name} is also an evaluation set, which favours the scores on it"


def _choose_split(descriptor: DatasetDescriptor) -> str:
    for split in _SPLITS:
        if descriptor.rows.get(split):
            return split
    raise BadRequest(
        f"data set {descriptor.name!r} has no train or validation split to calibrate on",
        hint="calibrate on c4, wikitext2 or boolq; a test split is never used",
    )


def _read_texts(folder: Path, name: str, split: str) -> list[str]:
    rows = read_rows(folder, split)
    field = TEXT_FIELDS.get(name) or _usual_text_field(name, rows[0])
    try:
        texts = [row[field] for row in rows]
    except KeyError as missing:
        raise BadRequest(
            f"rows of data set {name!r} have no field {field!r}", hint="fetch the data set again"
        ) from missing
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest(f"field {field!r} of data set {name!r} is not text", hint="calibrate on a set of texts")
    return texts


def _usual_text_field(name: str, row: dict[str, Any]) -> str:
    for field in _USUAL_TEXT_FIELDS:
        if isinstance(row.get(field), str):
            return field
    raise BadRequest(
        f"data set {name!r} has no text field that is known here; its fields are: {', '.join(sorted(row))}",
        hint=f"use a set with a field named {', '.join(_USUAL_TEXT_FIELDS)}, or add it to TEXT_FIELDS",
    )


def _draw_documents(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", asked: Calibration) -> _Drawn:
    documents = _Documents(texts, tokenizer)
    long = documents.count_longer(asked.sequence_length, enough=asked.samples)
    if long < asked.samples:
        return _pack(texts, tokenizer, asked, f"only {long} of {len(texts)} documents are longer than a sequence")
    generator = random.Random(asked.seed)  # noqa: S311  the authors' generator, so that their draws come out
    crops = []
    for _ in range(asked.samples):
        while len(tokens := documents.tokens(generator.randint(0, len(texts) - 1))) <= asked.sequence_length:
            pass
        start = generator.randint(0, len(tokens) - asked.sequence_length - 1)
        crops.append(tokens[start : start + asked.sequence_length])
    return _Drawn(crops, Policy.CROP, "one random crop each of random documents longer than a sequence")


def _pack(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", asked: Calibration, why: str) -> _Drawn:
    distinct = list(dict.fromkeys(text for text in texts if text.strip()))
    generator = random.Random(asked.seed)  # noqa: S311  reproducible draws, not secrets
    generator.shuffle(distinct)
    needed = asked.samples * asked.sequence_length
    stream: list[int] = []
    for text in distinct:
        if len(stream) >= needed:
            break
        stream += _tokenize(tokenizer, text)
    if len(stream) < needed:
        windows = _random_windows(stream, generator, asked)
        how = f"{len(distinct)} distinct documents hold {len(stream)} tokens, so windows of them overlap"
        return _Drawn(windows, Policy.PACKED, f"{why}; {how}")
    starts = range(0, needed, asked.sequence_length)
    windows = [stream[start : start + asked.sequence_length] for start in starts]
    return _Drawn(windows, Policy.PACKED, f"{why}, so shuffled documents are joined and cut without overlap")


def _draw_windows(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", asked: Calibration) -> _Drawn:
    stream = _tokenize(tokenizer, _JOINER.join(texts))
    generator = random.Random(asked.seed)  # noqa: S311  the authors' generator, so that their draws come out
    return _Drawn(_random_windows(stream, generator, asked), Policy.WINDOW, "random windows of all rows joined")


def _random_windows(stream: Sequence[int], generator: random.Random, asked: Calibration) -> list[list[int]]:
    length = asked.sequence_length
    if len(stream) <= length:
        raise BadRequest(
            f"the calibration set holds {len(stream)} tokens, too few for one sequence of {length}",
            hint="use a shorter sequence length or a larger calibration set",
        )
    starts = [generator.randint(0, len(stream) - length - 1) for _ in range(asked.samples)]
    return [list(stream[start : start + length]) for start in starts]


class _Documents:
    """Tokenizes each document at most once, and only those that are looked at."""

    def __init__(self, texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> None:
        self._texts = texts
        self._tokenizer = tokenizer
        self._tokens: dict[int, list[int]] = {}

    def tokens(self, index: int) -> list[int]:
        if index not in self._tokens:
            self._tokens[index] = _tokenize(self._tokenizer, self._texts[index])
        return self._tokens[index]

    def count_longer(self, length: int, *, enough: int) -> int:
        """How many documents have more than `length` tokens; the count stops at `enough`."""
        found = 0
        for index in range(len(self._texts)):
            found += len(self.tokens(index)) > length
            if found == enough:
                break
        return found


def _tokenize(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return list(tokenizer(text, verbose=False)["input_ids"])
