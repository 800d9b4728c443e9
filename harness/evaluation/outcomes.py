"""Per-item outcomes: what is kept of each item, how it is written, and the mean and standard error over items."""

import gzip
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from harness.contract import Frozen, digest_of

ITEMS_NAME = "items.jsonl.gz"
NOT_FINITE = "log_likelihood_not_finite"
"""The reason under which an item is excluded when the model gave it NaN or an infinity."""

_DIGEST_CHARACTERS = 16


class ChoiceItem(Frozen):
    """One question. `picked` has the largest log-likelihood (nats), `picked_norm` the largest one per character.

    `document` is the beginning of the sha256 of the data set's row: the text itself is not ours to pass on. A
    log-likelihood that is no finite number is None, and the item is then excluded: nothing is picked.
    """

    index: NonNegativeInt
    document: str
    log_likelihoods: tuple[float | None, ...]
    gold: NonNegativeInt
    picked: NonNegativeInt | None = None
    picked_norm: NonNegativeInt | None = None
    correct: dict[str, float] = {}


class SegmentItem(Frozen):
    """One segment of text: the summed negative log-likelihood, in nats, of its `tokens` predicted tokens."""

    index: NonNegativeInt
    negative_log_likelihood: float | None
    tokens: PositiveInt


@dataclass(frozen=True)
class Scored:
    """What one task found out. `excluded` counts items by reason, and they are not among `scored`."""

    metrics: dict[str, float]
    items: tuple[ChoiceItem, ...] | tuple[SegmentItem, ...]
    scored: int
    available: int
    excluded: dict[str, int]


def document_digest(row: object) -> str:
    """Names a data set's row without quoting it."""
    return digest_of(row)[:_DIGEST_CHARACTERS]


def finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def standard_error(values: Sequence[float]) -> float | None:
    """Sample standard deviation over the square root of the count; None for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def write_items(items: Iterable[Frozen], folder: Path) -> str:
    """Write one JSON line an item and return the file's name. The same items always give the same bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
        for item in items:
            file.write(item.model_dump_json().encode() + b"\n")
    (folder / ITEMS_NAME).write_bytes(packed.getvalue())
    return ITEMS_NAME
