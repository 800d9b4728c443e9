"""Reads what an evaluation kept of each item: whole, each item once, and none that contradicts itself."""

import gzip
import hashlib
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from harness.contract import read_regular
from harness.contract.items import (
    ORIGINAL,
    ChoiceItem,
    Item,
    JudgedItem,
    PageItem,
    SegmentItem,
    TruthItem,
    item_type,
)
from orchestrator.figures.metrics import Floats, choice_metrics, page_metrics, segment_metrics

MOST_BYTES = 2**30
"""Unpacked; the outcomes of the largest task take 5 MB."""

_DAMAGES = (OSError, EOFError, zlib.error, ValueError, RecursionError)
"""All that reading, unpacking and parsing bytes of any kind can raise."""


class Contradiction(Exception):
    """A result is not what its parts give, or these are missing or damaged; the message is a clause."""


@dataclass(frozen=True)
class OutcomesFile:
    """Where the outcomes of one evaluation lie, of items of the data set with the digest `data`.

    The digest tells segments of one text from those of another; questions name their own row of the data set, so the
    same questions from another source are the same items. `sha256` is the file's, where that was written down.
    """

    path: Path
    data: str = ""
    sha256: str | None = None


@dataclass(frozen=True)
class Outcomes:
    """What one evaluation found of its items, sorted by group, then by number.

    `metrics` are all figures that follow from them. `identity` is equal for the same items in the same groups. `groups`
    holds the number of items of each group, in order. `values` has, for each metric of an item, its outcomes [items],
    NaN where an item was excluded; `weights` the same for pages of text, where each word or byte counts the same. With
    `exponential` a figure is the exponential of the mean. `excluded` items have no outcome. `tokens` are the numbers of
    tokens that segments have. `answers` and `lengths` are equal for items of which the data set says the same: right
    answers and numbers of choices, or words and bytes; and the lengths of choices, None where they are not told.
    """

    metrics: Mapping[str, float]
    identity: str
    groups: tuple[int, ...]
    values: Mapping[str, Floats]
    weights: Mapping[str, Floats]
    exponential: bool
    scored: int
    excluded: int
    tokens: frozenset[int] = frozenset()
    answers: str = ""
    lengths: str | None = None


def read_outcomes(file: OutcomesFile) -> Outcomes:
    """The outcomes that an evaluation kept, held against themselves.

    Raises:
        Contradiction: as `read_items` does.
    """
    items = read_items(file)
    if isinstance(items[0], SegmentItem):
        return _of_texts([item for item in items if isinstance(item, SegmentItem)], file.data)
    return _of_questions([item for item in items if isinstance(item, JudgedItem)])


def _of_questions(items: list[JudgedItem]) -> Outcomes:
    ordered = sorted(items, key=lambda item: (item.group or "", item.index))
    listing = [f"{item.group or ''} {item.index} {item.document}" for item in ordered]
    groups = Counter(item.group or "" for item in ordered)
    correct = [item.correct for item in ordered]
    choices = [item for item in ordered if isinstance(item, ChoiceItem)]
    lengths = [str(item.lengths) for item in choices if item.lengths is not None]
    names = [name for kind in dict.fromkeys(map(tuple, correct)) for name in kind]
    values = {name: np.array([one.get(name, math.nan) for one in correct]) for name in dict.fromkeys(names)}
    return Outcomes(
        metrics=choice_metrics(values, {} if groups.keys() == {""} else groups),
        identity=_digest(listing),
        groups=tuple(groups.values()),
        values=values,
        weights={},
        exponential=False,
        scored=sum(map(bool, correct)),
        excluded=len(items) - sum(map(bool, correct)),
        answers=_digest([f"{item.gold} {len(item.log_likelihoods)} {_truth(item)}" for item in choices]),
        lengths=_digest(lengths) if lengths and len(lengths) == len(choices) else None,
    )


def _truth(item: ChoiceItem) -> str:
    return f"{item.mc1_choices} {item.mc2_true}" if isinstance(item, TruthItem) else ""


def _of_texts(items: list[SegmentItem], data: str) -> Outcomes:
    losses = np.array([item.negative_log_likelihood for item in items], np.float64)
    tokens = np.array([item.tokens for item in items], np.float64)
    pages = [item for item in items if isinstance(item, PageItem)]
    weights: dict[str, Floats] = {}
    if pages:
        words = np.array([page.words for page in pages], np.float64)
        sizes = np.array([page.bytes for page in pages], np.float64)
        weights = {"word_perplexity": words, "byte_perplexity": sizes}
        metrics, values = page_metrics(losses, words, sizes), {name: losses / each for name, each in weights.items()}
    else:
        metrics, values = segment_metrics(losses / tokens), {"perplexity": losses / tokens}
    scored = int(np.count_nonzero(~np.isnan(losses)))
    return Outcomes(
        metrics=metrics,
        identity=_digest([f" {item.index} {getattr(item, 'document', data)}" for item in items]),
        groups=(len(items),),
        values=values,
        weights=weights,
        exponential=True,
        scored=scored,
        excluded=len(items) - scored,
        tokens=frozenset() if pages else frozenset(item.tokens for item in items),
        answers=_digest([f"{page.words} {page.bytes}" for page in pages]),
    )


def _digest(listing: list[str]) -> str:
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def read_items(file: OutcomesFile) -> tuple[Item, ...]:
    """The items by their numbers, which go from 0 without a gap; there is at least one.

    Raises:
        Contradiction: the file is missing, damaged, not the one that was written, or has items that contradict
            themselves or each other.
    """
    name = file.path.name
    lines = _lines(file)
    if not lines:
        raise Contradiction(f"{name} holds no items")
    items = sorted(_parsed(name, lines), key=lambda item: item.index)
    for number, item in enumerate(items):
        if item.index != number:
            problem = f"holds item {item.index} twice" if item.index < number else f"lacks item {number}"
            raise Contradiction(f"{name} {problem}")
    judged = {tuple(item.correct) for item in items if isinstance(item, JudgedItem)}
    if len({frozenset(names) - {ORIGINAL} for names in judged if names}) > 1:
        raise Contradiction(f"{name} has items of different metrics")
    return tuple(items)


def _parsed(name: str, lines: list[bytes]) -> list[Item]:
    """All lines at once, which takes half the time of one by one."""
    kinds = {item_type(_object(name, number, lines[number])) for number in (0, len(lines) - 1)}
    if len(kinds) > 1:
        raise Contradiction(f"{name} holds items of different kinds")
    try:
        return _items_of(kinds.pop()).validate_json(b"[%s]" % b",".join(lines), extra="ignore")
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        if not first["loc"]:
            for number, line in enumerate(lines):
                _object(name, number, line)
        at, *field = first["loc"] or (0,)
        where = "".join(f"{part}: " for part in [".".join(map(str, field))] if part)
        reason = first["msg"].removeprefix("Value error, ")
        raise Contradiction(f"line {int(at) + 1} of {name}: {where}{reason}") from invalid


@cache
def _items_of(kind: type[Item]) -> TypeAdapter[list[Item]]:
    return TypeAdapter(list[kind])  # type: ignore[valid-type]


def _object(name: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as malformed:
        raise Contradiction(f"line {number + 1} of {name} is not readable: {malformed}") from malformed
    if not isinstance(found, dict):
        raise Contradiction(f"line {number + 1} of {name} is not readable: no JSON object")
    return found


def _lines(file: OutcomesFile) -> list[bytes]:
    name = file.path.name
    try:
        content = read_regular(file.path, MOST_BYTES)
        if file.sha256 is not None and hashlib.sha256(content).hexdigest() != file.sha256:
            raise Contradiction(f"{name} is not what was written: it has another sha256")
        return [line for line in _unpacked(content, file.path.suffix).splitlines() if line.strip()]
    except FileNotFoundError:
        raise Contradiction(f"the outcomes of the items ({name}) are not there") from None
    except _DAMAGES as damaged:
        raise Contradiction(f"{name} is not readable: {damaged}") from damaged


def _unpacked(content: bytes, ending: str) -> bytes:
    """A compressed file's content; the ending of its name says how it is compressed."""
    import zstandard

    packed = io.BytesIO(content)
    if ending == ".gz":
        with gzip.open(packed) as plain:
            found = plain.read(MOST_BYTES + 1)
    elif ending == ".zst":
        try:
            with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as stream:
                found = stream.read(MOST_BYTES + 1)
        except zstandard.ZstdError as damaged:
            raise OSError(str(damaged)) from damaged
    else:
        raise OSError(f"no form is known by the ending {ending!r}")
    if len(found) > MOST_BYTES:
        raise OSError(f"it unpacks to more than {MOST_BYTES} bytes")
    return found
