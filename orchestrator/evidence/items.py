"""Reads what an evaluation kept of each item. A file that is not as it should be costs the interval, nothing else."""

import gzip
import hashlib
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.contract import digest_file

ParsedT = TypeVar("ParsedT")
Floats = NDArray[np.float64]

_DAMAGES = (
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""All that reading, unpacking and parsing bytes of any kind can raise."""
_OVER_GROUPS = "_over_groups"
"""Ends the name of a metric that is averaged within groups first; the items carry the name without it."""
_PAGE_UNITS = {"word_perplexity": "words", "byte_perplexity": "bytes"}


class NoInterval(Exception):
    """There are no outcomes to resample, so no interval; the message says why, in a clause that a report can print."""


@dataclass(frozen=True)
class ItemsFile:
    """Where the outcomes of one evaluation lie: of `scored` items of the data set with the digest `data`.

    The digest tells segments of one text from those of another; questions name their own row of the data set, so the
    same questions from another source are the same items. `sha256` is the file's, where that was written down.
    """

    path: Path
    scored: int
    data: str = ""
    sha256: str | None = None


@dataclass(frozen=True)
class Items:
    """One metric's outcome of each item, sorted by group, then by number.

    `identity` is equal for the same items in the same groups. `groups` holds the number of items of each group, in
    order. `values` [items] is NaN where an item was excluded; `weights` [items] are all 1 but for pages of text, where
    each word counts the same. With `exponential` the figure is the exponential of the mean.
    """

    identity: str
    groups: tuple[int, ...]
    values: Floats
    weights: Floats
    exponential: bool

    @property
    def scored(self) -> int:
        return int(np.count_nonzero(~np.isnan(self.values)))

    @property
    def right(self) -> NDArray[np.bool_] | None:
        """Which items are right [items]; None where an item can be partly right, or was excluded."""
        whole = np.isin(self.values, (0.0, 1.0)).all()
        return self.values == 1.0 if whole and not self.exponential else None


def read_items(file: ItemsFile, metric: str) -> Items:
    """Read the outcomes that `metric` is computed from.

    Raises:
        NoInterval: the file is missing, damaged, of another form, or has nothing of this metric.
    """
    rows = sorted(_rows(file, metric), key=lambda row: (row.group, row.index))
    if len({row.index for row in rows}) < len(rows):
        raise NoInterval(f"{file.path.name} holds an item twice")
    scored = sum(not math.isnan(row.value) for row in rows)
    if scored == 0:
        raise NoInterval(f"{file.path.name} has no outcome of the metric {metric}")
    if scored != file.scored:
        raise NoInterval(f"{file.path.name} has outcomes of {scored} items, but {file.scored} were scored")
    listing = "\n".join(f"{row.group} {row.index} {row.name or file.data}" for row in rows)
    return Items(
        identity=hashlib.sha256(listing.encode()).hexdigest(),
        groups=tuple(Counter(row.group for row in rows).values()),
        values=np.array([row.value for row in rows]),
        weights=np.array([row.weight for row in rows]),
        exponential=rows[0].is_segment,
    )


@dataclass(frozen=True)
class _Row:
    index: int
    group: str
    name: str
    value: float
    weight: float
    is_segment: bool


def _rows(file: ItemsFile, metric: str) -> list[_Row]:
    found = read_outcomes(file, lambda item: _row(item, metric))
    if len({row.is_segment for row in found}) > 1:
        raise NoInterval(f"{file.path.name} holds items of different kinds")
    return found


def read_outcomes(file: ItemsFile, parse: Callable[[dict[str, Any]], ParsedT]) -> list[ParsedT]:
    """What `parse` makes of each line of a file of outcomes; there is at least one.

    Raises:
        NoInterval: the file is missing, damaged, or not the one that was written.
    """
    name = file.path.name
    found: list[ParsedT] = []
    try:
        if file.sha256 is not None and digest_file(file.path) != file.sha256:
            raise NoInterval(f"{name} is not what was written: it has another sha256")
        with _open(file.path) as lines:
            found.extend(parse(json.loads(line)) for line in lines)
    except FileNotFoundError:
        raise NoInterval(f"the outcomes of the items ({name}) are not in the store") from None
    except _DAMAGES as damaged:
        raise NoInterval(f"line {len(found) + 1} of {name} is not readable: {_clause(damaged)}") from damaged
    if not found:
        raise NoInterval(f"{name} holds no items")
    return found


@contextmanager
def _open(path: Path) -> Iterator[Iterator[bytes]]:
    """The lines of a compressed file; its name's ending says how it is compressed."""
    import zstandard

    with path.open("rb") as packed:
        if path.suffix == ".zst":
            try:
                with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as plain:
                    yield _lines(plain)
            except zstandard.ZstdError as damaged:
                raise OSError(str(damaged)) from damaged
        elif path.suffix == ".gz":
            with gzip.open(packed) as plain:
                yield _lines(plain)
        else:
            raise OSError(f"no form is known by the ending {path.suffix!r}")


def _lines(plain: Any) -> Iterator[bytes]:
    yield from io.BufferedReader(plain)


def _row(item: dict[str, Any], metric: str) -> _Row:
    if "negative_log_likelihood" not in item:
        return _choice(item, metric.removesuffix(_OVER_GROUPS))
    return _page(item, metric) if "words" in item else _segment(item, metric)


def _segment(item: dict[str, Any], metric: str) -> _Row:
    """The mean loss of a segment's tokens, in nats. Each segment counts the same."""
    tokens = int(item["tokens"])
    value = _loss(item) / tokens if metric == "perplexity" else math.nan
    return _Row(int(item["index"]), "", "", value, 1.0, is_segment=True)


def _page(item: dict[str, Any], metric: str) -> _Row:
    """The mean loss of a page's words or bytes, in nats. Each of these counts the same."""
    size = int(item[_PAGE_UNITS[metric]]) if metric in _PAGE_UNITS else 0
    value = _loss(item) / size if size else math.nan
    return _Row(int(item["index"]), "", str(item["document"]), value, float(size), is_segment=True)


def _loss(item: dict[str, Any]) -> float:
    loss = item["negative_log_likelihood"]
    return math.nan if loss is None else float(loss)


def _choice(item: dict[str, Any], metric: str) -> _Row:
    value = item["correct"].get(metric)
    if value is None or ("picked" in item and item["picked"] is None):
        value = math.nan
    elif not 0 <= value <= 1:
        raise ValueError(f"{metric} is {value}, not between 0 and 1")
    return _Row(int(item["index"]), item.get("group") or "", str(item["document"]), float(value), 1.0, is_segment=False)


def _clause(damage: Exception) -> str:
    return f"{damage} is missing" if isinstance(damage, KeyError) else str(damage)
