"""Counts what is in a checkpoint's safetensors files, without torch: the header is JSON, the weights are numpy's."""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100 * 2**20
_BITS = {"F64": np.uint64, "F32": np.uint32, "F16": np.uint16, "BF16": np.uint16}
"""The unsigned integers of the same width: a float is zero where all of its bits but the sign are."""


class BadWeights(Exception):
    """A file is no safetensors file; the message says which and why."""


@dataclass(frozen=True)
class Counted:
    """`zeros_of_linears` is the share of zeros among the two-dimensional floating-point tensors of the blocks."""

    tensors: int
    values: int
    zeros_of_linears: float


def count_weights(folder: Path) -> Counted:
    """Count all safetensors files of a checkpoint's folder.

    Raises:
        BadWeights: there are none, or one cannot be read.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise BadWeights(f"{folder.name} holds no safetensors file")
    tensors = values = zeros = of_linears = 0
    for path in paths:
        for name, dtype, shape, data in _tensors(path):
            tensors += 1
            values += math.prod(shape)
            if ".layers." in name and len(shape) == 2 and dtype in _BITS:
                bits = np.frombuffer(data, dtype=_BITS[dtype])
                zeros += int(np.count_nonzero(bits << 1 == 0))
                of_linears += bits.size
    return Counted(tensors, values, zeros / of_linears if of_linears else 0.0)


def _tensors(path: Path) -> Iterator[tuple[str, str, tuple[int, ...], bytes]]:
    with path.open("rb") as file:
        try:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            if length > _MAX_HEADER_BYTES:
                raise BadWeights(f"{path.name}: its header would be {length} bytes long")
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            begin = file.tell()
            for name, entry in header.items():
                first, last = entry["data_offsets"]
                file.seek(begin + first)
                data = file.read(last - first)
                if len(data) != last - first:
                    raise BadWeights(f"{path.name}: {name} reaches beyond the end of the file")
                yield name, str(entry["dtype"]), tuple(map(int, entry["shape"])), data
        except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as broken:
            raise BadWeights(f"{path.name} is no safetensors file: {broken}") from broken
