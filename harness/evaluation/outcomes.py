"""Per-item outcomes: what is kept of each item, how it is written, and the mean and standard error over items.

The file format is in docs/evaluation.md.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from harness.contract import Frozen
from harness.errors import BadRequest

ITEMS_NAME = "items.jsonl.zst"
_COMPRESSION_LEVEL = 12

ItemT = TypeVar("ItemT", bound=Frozen)


def finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def shortest_float32(value: float) -> float:
    """The shortest decimal that is still the same float32: what a likelihood is worth, at half the characters."""
    import numpy

    return float(str(numpy.float32(value)))


def standard_error(values: Sequence[float]) -> float | None:
    """Sample standard deviation over the square root of the count; None for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def write_items(items: Iterable[Frozen], folder: Path) -> str:
    """Write one JSON line an item and return the file's name. The same items always give the same bytes."""
    import pyarrow

    lines = b"".join(item.model_dump_json().encode() + b"\n" for item in items)
    packed = pyarrow.Codec("zstd", compression_level=_COMPRESSION_LEVEL).compress(lines, asbytes=True)
    partial = folder / f".{ITEMS_NAME}.tmp"
    partial.write_bytes(packed)
    partial.replace(folder / ITEMS_NAME)
    return ITEMS_NAME


def read_items(path: Path, item_type: type[ItemT]) -> tuple[ItemT, ...]:
    """The outcomes in a file that `write_items` wrote.

    Raises:
        BadRequest: the file is missing, damaged, or holds outcomes of another kind.
    """
    import pyarrow

    try:
        with pyarrow.CompressedInputStream(pyarrow.BufferReader(path.read_bytes()), "zstd") as stream:
            lines = stream.read().splitlines()
        return tuple(item_type.model_validate_json(line) for line in lines)
    except (OSError, ValidationError) as broken:
        raise BadRequest(
            f"{path} cannot be read as outcomes of the kind {item_type.__name__}: {broken}",
            hint="evaluate again; the file is written whole or not at all",
        ) from broken
