"""Calibration token sequences, drawn from a data set artifact by a named policy.

`crop` is the rule of the SparseGPT, Wanda and GPTQ code for C4: pick a random document that is longer than the
sequence, then a random crop of it. `window` is their rule for WikiText-2: join all rows, then take random windows;
`window-paragraphs` joins them with blank lines, as GPTQ and OmniQuant do. `joined` is AWQ's and `documents`
SmoothQuant's rule for the Pile. `packed` is ours, for a set whose documents are too few or too short to crop.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.calibration.text import choose_split, read_texts
from harness.checkpoint import open_dataset
from harness.contract import Calibration, CalibrationPolicy, DatasetDescriptor
from harness.errors import BadRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class CalibrationSet:
    """`sequences`: each int64 [tokens], on the host. `notes` say what was drawn from where, and how.

    For a method that looks at no text there are none, and no policy.
    """

    sequences: tuple[torch.Tensor, ...]
    policy: CalibrationPolicy | None
    notes: tuple[str, ...]

    @property
    def tokens(self) -> torch.Tensor:
        """int64 [samples, sequence_length].

        Raises:
            BadRequest: the sequences differ in length.
        """
        if self.policy is not None and len({len(sequence) for sequence in self.sequences}) > 1:
            raise BadRequest(
                f"the policy {self.policy.value!r} gave sequences of different lengths, where one length is needed",
                hint="choose another calibration policy, such as packed",
            )
        return torch.stack(self.sequences)


@dataclass(frozen=True)
class _Drawn:
    sequences: Sequence[Sequence[int]]
    policy: CalibrationPolicy
    reason: str


_JOINED_SETS = frozenset({"wikitext2"})
_JOINERS = {CalibrationPolicy.WINDOW: " ", CalibrationPolicy.WINDOW_PARAGRAPHS: "\n\n"}


def draw_calibration(folder: Path, tokenizer: "PreTrainedTokenizerBase", asked: Calibration) -> CalibrationSet:
    """Draw `asked.samples` sequences; the same artifact, tokenizer and seed always give the same ones.

    `joined` and `documents` give fewer where the set holds too little. A policy that is asked for is never replaced.

    Raises:
        BadCheckpoint: the folder is not a published data set.
        BadRequest: the set has no text, no training or validation split, or none long enough for the policy.
    """
    descriptor = open_dataset(folder)
    split = choose_split(descriptor)
    texts = read_texts(folder, descriptor.name, split)
    drawn = _draw(_Documents(texts, tokenizer), asked, _policy(descriptor, asked))
    return CalibrationSet(
        sequences=tuple(torch.tensor(sequence, dtype=torch.int64) for sequence in drawn.sequences),
        policy=drawn.policy,
        notes=tuple(_describe(descriptor, split, asked, drawn)),
    )


def _policy(descriptor: DatasetDescriptor, asked: Calibration) -> CalibrationPolicy | None:
    """None leaves the choice between `crop` and `packed` to the lengths of the documents."""
    if asked.policy is None and descriptor.name in _JOINED_SETS:
        return CalibrationPolicy.WINDOW
    return asked.policy


def _draw(documents: "_Documents", asked: Calibration, policy: CalibrationPolicy | None) -> _Drawn:
    match policy:
        case None:
            return _crop_or_pack(documents, asked)
        case CalibrationPolicy.CROP:
            return _crop(documents, asked)
        case CalibrationPolicy.PACKED:
            return _pack(documents, asked, "asked for")
        case CalibrationPolicy.JOINED:
            return _join(documents, asked)
        case CalibrationPolicy.DOCUMENTS:
            return _truncate(documents, asked)
        case CalibrationPolicy.WINDOW | CalibrationPolicy.WINDOW_PARAGRAPHS:
            return _draw_windows(documents, asked, policy)


def _describe(descriptor: DatasetDescriptor, split: str, asked: Calibration, drawn: _Drawn) -> Iterator[str]:
    lengths = {len(sequence) for sequence in drawn.sequences}
    length = str(asked.sequence_length) if lengths == {asked.sequence_length} else f"{min(lengths)} to {max(lengths)}"
    yield (
        f"calibration: {len(drawn.sequences)} sequences of {length} tokens from {descriptor.name} {split} "
        f"({descriptor.origin}), seed {asked.seed}, policy {drawn.policy.value}: {drawn.reason}"
    )
    yield from (f"calibration: {descriptor.name} {note}" for note in descriptor.notes if note.startswith(f"{split}: "))
    if descriptor.name != asked.dataset:
        yield f"calibration: {asked.dataset} was asked for, {descriptor.name} stands in for it"
    if descriptor.name in asked.evaluated:
        yield f"calibration: {descriptor.name} is also an evaluation set, which favours the scores on it"


def _crop_or_pack(documents: "_Documents", asked: Calibration) -> _Drawn:
    long = documents.count_longer(asked.sequence_length, enough=asked.samples)
    if long < asked.samples:
        why = f"only {long} of {len(documents.texts)} documents are longer than a sequence"
        return _pack(documents, asked, why)
    return _crop(documents, asked)


def _crop(documents: "_Documents", asked: Calibration) -> _Drawn:
    if not documents.count_longer(asked.sequence_length, enough=1):
        raise BadRequest(
            f"no document of the calibration set is longer than {asked.sequence_length} tokens, so none can be cropped",
            hint="use a shorter sequence length, or the policy packed",
        )
    generator = random.Random(asked.seed)  # noqa: S311  the authors' generator, so that their draws come out
    crops = []
    for _ in range(asked.samples):
        while len(tokens := documents.tokens(generator.randint(0, len(documents.texts) - 1))) <= asked.sequence_length:
            pass
        start = generator.randint(0, len(tokens) - asked.sequence_length - 1)
        crops.append(tokens[start : start + asked.sequence_length])
    return _Drawn(crops, CalibrationPolicy.CROP, "one random crop each of random documents longer than a sequence")


def _pack(documents: "_Documents", asked: Calibration, why: str) -> _Drawn:
    distinct = list(dict.fromkeys(text for text in documents.texts if text.strip()))
    generator = random.Random(asked.seed)  # noqa: S311  reproducible draws, not secrets
    generator.shuffle(distinct)
    needed = asked.samples * asked.sequence_length
    stream: list[int] = []
    for text in distinct:
        if len(stream) >= needed:
            break
        stream += documents.tokenize(text)
    if len(stream) < needed:
        windows = _random_windows(stream, generator, asked)
        how = f"{len(distinct)} distinct documents hold {len(stream)} tokens, so windows of them overlap"
        return _Drawn(windows, CalibrationPolicy.PACKED, f"{why}; {how}")
    windows = _cut(stream[:needed], asked.sequence_length)
    return _Drawn(windows, CalibrationPolicy.PACKED, f"{why}, so shuffled documents are joined and cut without overlap")


def _join(documents: "_Documents", asked: Calibration) -> _Drawn:
    """The first `samples` documents, shuffled, that are no longer than a sequence: all their tokens, cut."""
    taken = 0
    stream: list[int] = []
    for text in _shuffled(documents.texts, asked.seed):
        tokens = documents.tokenize(text.strip()) if text.strip() else []
        if 0 < len(tokens) <= asked.sequence_length:
            stream += tokens
            taken += 1
        if taken == asked.samples:
            break
    if len(stream) < asked.sequence_length:
        raise _too_few(len(stream), asked)
    reason = f"{taken} shuffled documents no longer than a sequence hold {len(stream)} tokens, which are joined and cut"
    return _Drawn(_cut(stream, asked.sequence_length), CalibrationPolicy.JOINED, reason)


def _truncate(documents: "_Documents", asked: Calibration) -> _Drawn:
    """The first `samples` shuffled documents, each cut off at a sequence's length."""
    kept: list[list[int]] = []
    for text in _shuffled(documents.texts, asked.seed):
        if text.strip():
            kept.append(documents.tokenize(text)[: asked.sequence_length])
        if len(kept) == asked.samples:
            break
    if not kept:
        raise _too_few(0, asked)
    reason = f"{len(kept)} shuffled documents, each cut off at {asked.sequence_length} tokens"
    return _Drawn(kept, CalibrationPolicy.DOCUMENTS, reason)


def _draw_windows(documents: "_Documents", asked: Calibration, policy: CalibrationPolicy) -> _Drawn:
    stream = documents.tokenize(_JOINERS[policy].join(documents.texts))
    generator = random.Random(asked.seed)  # noqa: S311  the authors' generator, so that their draws come out
    return _Drawn(_random_windows(stream, generator, asked), policy, "random windows of all rows joined")


def _shuffled(texts: Sequence[str], seed: int) -> Iterator[str]:
    """In the order in which the `datasets` library shuffles rows with this seed, which AWQ and SmoothQuant use."""
    import numpy

    return (texts[index] for index in numpy.random.default_rng(seed).permutation(len(texts)))


def _cut(stream: Sequence[int], length: int) -> list[Sequence[int]]:
    """Sequences of `length` without overlap; a remainder is dropped."""
    return [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]


def _random_windows(stream: Sequence[int], generator: random.Random, asked: Calibration) -> list[Sequence[int]]:
    length = asked.sequence_length
    if len(stream) <= length:
        raise _too_few(len(stream), asked)
    starts = [generator.randint(0, len(stream) - length - 1) for _ in range(asked.samples)]
    return [stream[start : start + length] for start in starts]


def _too_few(tokens: int, asked: Calibration) -> BadRequest:
    return BadRequest(
        f"the calibration set holds {tokens} tokens that the policy can use, too few for one sequence of "
        f"{asked.sequence_length}",
        hint="use a shorter sequence length, another policy or a larger calibration set",
    )


class _Documents:
    """Tokenizes each document at most once, and only those that are looked at."""

    def __init__(self, texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> None:
        self.texts = texts
        self._tokenizer = tokenizer
        self._tokens: dict[int, list[int]] = {}

    def tokenize(self, text: str) -> list[int]:
        return list(self._tokenizer(text, verbose=False)["input_ids"])

    def tokens(self, index: int) -> list[int]:
        if index not in self._tokens:
            self._tokens[index] = self.tokenize(self.texts[index])
        return self._tokens[index]

    def count_longer(self, length: int, *, enough: int) -> int:
        """How many documents have more than `length` tokens; the count stops at `enough`."""
        found = 0
        for index in range(len(self.texts)):
            found += len(self.tokens(index)) > length
            if found == enough:
                break
        return found
