"""What the tensors of a checkpoint hold, counted from its safetensors files with numpy alone, in bounded memory.

Both sides of the contract count with this: the host holds an image's claims against it, and a profile takes the zeros
that enter multiply-accumulates from it. Files are read in pieces, on all cores.
"""

import json
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.contract.stored import StoredTensor
from harness.contract.tree import open_regular

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100 * 2**20
_PIECE_BYTES = 2**20
"""Read at a time: a piece and what is made of it stay in a core's cache."""
_TASK_BYTES = 32 * 2**20
_MAX_ROW_BYTES = 64 * 2**20
_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_MAGNITUDES: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F64": (np.uint64, 2**63 - 1), "F32": (np.uint32, 2**31 - 1), "F16": (np.uint16, 2**15 - 1),
    "BF16": (np.uint16, 2**15 - 1), "F8_E4M3": (np.uint8, 127), "F8_E5M2": (np.uint8, 127), "I8": (np.uint8, 255),
}  # fmt: skip
"""Unsigned integers of the same width, and the bits that are all zero where the value is: all but a float's sign."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_GROUP_VIEWS: dict[int, type[np.unsignedinteger[Any]]] = {2: np.uint16, 4: np.uint32, 8: np.uint64}

Poll = Callable[[], None]
Done = TypeVar("Done")
Task = TypeVar("Task")


class BadWeights(Exception):
    """The files cannot be read as a checkpoint's weights; the message says which and why."""


@dataclass(frozen=True)
class Zeros:
    """Of some weights. `broken` is the first group of a pattern that has too few zeros, in words."""

    values: int
    zeros: int
    broken: str | None = None


def never() -> None:
    """A poll that lets the work go on."""


def read_stored(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of all safetensors files in a folder, from the headers.

    Raises:
        BadWeights: there are none, one cannot be read, or two hold a tensor of one name.
    """
    found: dict[str, StoredTensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for tensor in _read_header(path):
            if tensor.name in found:
                raise BadWeights(f"{tensor.name} is in {found[tensor.name].path.name} and in {path.name}")
            found[tensor.name] = tensor
    if not found:
        raise BadWeights(f"{folder.name} holds no tensor in a safetensors file")
    return found


def read_bytes(tensor: StoredTensor) -> bytes:
    """All bytes of a small tensor.

    Raises:
        BadWeights: it cannot be read.
    """
    with _regular_file(tensor.path) as file:
        file.seek(tensor.begin)
        return file.read(tensor.size_bytes)


def count_zeros(
    tensors: Sequence[StoredTensor], pattern: tuple[int, int] | None = None, poll: Poll = never
) -> dict[str, Zeros]:
    """The zeros of matrices [rows, inputs] by name; of floats of 8 to 64 bits, and of 8-bit integers.

    With a `pattern` (n, m) each row's inputs are taken in groups of m, of which each has n zeros or more.

    Raises:
        BadWeights: a tensor is of another dtype, or cannot be read.
    """
    tasks = [(tensor, rows) for tensor in tensors for rows in _runs_of_rows(tensor)]
    counted: dict[str, Zeros] = {}
    for tensor, part in _on_all_cores(tasks, lambda task, stop: _zeros_of_rows(*task, pattern, stop), poll):
        before = counted.get(tensor.name, Zeros(0, 0))
        counted[tensor.name] = Zeros(
            before.values + part.values, before.zeros + part.zeros, before.broken or part.broken
        )
    return counted


def count_codes(tensors: Sequence[StoredTensor], bits: int, code: int, poll: Poll = never) -> dict[str, int]:
    """How often `code` stands in words of packed codes, by tensor; of 2, 4 or 8 bits, none of which crosses a byte."""
    tasks = [(tensor, rows) for tensor in tensors for rows in _runs_of_rows(tensor)]
    counted: dict[str, int] = dict.fromkeys((tensor.name for tensor in tensors), 0)
    for tensor, found in _on_all_cores(tasks, lambda task, stop: _codes_of_rows(*task, bits, code, stop), poll):
        counted[tensor.name] += found
    return counted


def most_values_of_a_row(tensors: Sequence[StoredTensor], poll: Poll = never) -> dict[str, int]:
    """Of each matrix [rows, inputs] of floats, how many different values the row with the most of them has."""
    tasks = [(tensor, rows) for tensor in tensors for rows in _runs_of_rows(tensor)]
    most: dict[str, int] = {}
    for tensor, found in _on_all_cores(tasks, lambda task, stop: _most_values(*task, stop), poll):
        most[tensor.name] = max(most.get(tensor.name, 0), found)
    return most


def _on_all_cores(
    tasks: Sequence[tuple[StoredTensor, range]],
    work: Callable[[tuple[StoredTensor, range], Poll], Done],
    poll: Poll,
) -> Iterator[tuple[StoredTensor, Done]]:
    stop = threading.Event()

    def go_on() -> None:
        if stop.is_set():
            raise BadWeights("stopped")
        poll()

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="count") as pool:
        running = [(task[0], pool.submit(work, task, go_on)) for task in tasks]
        try:
            for tensor, one in running:
                yield tensor, one.result()
        except BaseException:
            stop.set()
            raise


def _runs_of_rows(tensor: StoredTensor) -> Iterator[range]:
    rows, width = tensor.shape
    at_once = max(1, _TASK_BYTES // max(1, tensor.size_bytes // max(1, rows)))
    for first in range(0, rows if width else 0, at_once):
        yield range(first, min(first + at_once, rows))


def _pieces(tensor: StoredTensor, rows: range, poll: Poll) -> Iterator[tuple[int, bytearray]]:
    """The bytes of whole rows, some at a time, each with the number of its first row."""
    row_bytes = tensor.size_bytes // tensor.shape[0]
    if row_bytes > _MAX_ROW_BYTES:
        raise BadWeights(f"{tensor.name} has {tensor.shape[1]} inputs, more than are counted in bounded memory")
    at_once = max(1, _PIECE_BYTES // row_bytes)
    with _regular_file(tensor.path) as file:
        file.seek(tensor.begin + rows.start * row_bytes)
        for first in range(rows.start, rows.stop, at_once):
            poll()
            piece = bytearray(min(at_once, rows.stop - first) * row_bytes)
            if file.readinto(piece) != len(piece):  # type: ignore[attr-defined]
                raise BadWeights(f"{tensor.path.name}: {tensor.name} reaches beyond the end of the file")
            yield first, piece


def _zeros_of_rows(tensor: StoredTensor, rows: range, pattern: tuple[int, int] | None, poll: Poll) -> Zeros:
    if tensor.dtype not in _MAGNITUDES:
        raise BadWeights(f"{tensor.name} is stored as {tensor.dtype}, in which zeros are not counted")
    kind, mask = _MAGNITUDES[tensor.dtype]
    values = zeros = 0
    broken = None
    for first, piece in _pieces(tensor, rows, poll):
        nonzero = (np.frombuffer(piece, dtype=kind) & kind(mask)) != 0
        values += nonzero.size
        zeros += nonzero.size - int(np.count_nonzero(nonzero))
        if pattern is not None and broken is None:
            broken = _broken_group(nonzero, tensor, first, pattern)
    return Zeros(values, zeros, broken)


def _broken_group(
    nonzero: NDArray[np.bool_], tensor: StoredTensor, first_row: int, pattern: tuple[int, int]
) -> str | None:
    wanted, length = pattern
    inputs = tensor.shape[1]
    if inputs % length:
        return f"{tensor.name} has {inputs} inputs, no multiple of {length}"
    if length in _GROUP_VIEWS:
        kept = np.bitwise_count(nonzero.view(_GROUP_VIEWS[length]))
    else:
        kept = nonzero.reshape(-1, length).sum(axis=1, dtype=np.uint16)
    if not kept.size or int(kept.max()) <= length - wanted:
        return None
    group = int(np.argmax(kept > length - wanted))
    row, column = divmod(group * length, inputs)
    return (
        f"{tensor.name} has {length - int(kept[group])} zeros in row {first_row + row}, "
        f"inputs {column} to {column + length - 1}"
    )


def _codes_of_rows(tensor: StoredTensor, rows: range, bits: int, code: int, poll: Poll) -> int:
    found = 0
    for _, piece in _pieces(tensor, rows, poll):
        packed = np.frombuffer(piece, dtype=np.uint8)
        for shift in range(0, 8, bits):
            found += int(np.count_nonzero((packed >> shift) & (2**bits - 1) == code))
    return found


def _most_values(tensor: StoredTensor, rows: range, poll: Poll) -> int:
    kind, _ = _MAGNITUDES[tensor.dtype]
    most = 0
    for _, piece in _pieces(tensor, rows, poll):
        values = np.frombuffer(piece, dtype=kind).reshape(-1, tensor.shape[1])
        values[values == 1 << (8 * values.itemsize - 1)] = 0  # -0 is 0
        most = max(most, _most_in_sixteen_bits(values) if kind is np.uint16 else _most_sorted(values))
    return most


def _most_in_sixteen_bits(rows: NDArray[Any]) -> int:
    """By a mark for each of the values that there can be, which takes less than half the time of sorting."""
    most, seen = 0, np.zeros(2**16, dtype=np.bool_)
    for row in rows:
        seen[row] = True
        most = max(most, int(np.count_nonzero(seen)))
        seen[row] = False
    return most


def _most_sorted(rows: NDArray[Any]) -> int:
    ordered = np.sort(rows, axis=1)
    return 1 + int((ordered[:, 1:] != ordered[:, :-1]).sum(axis=1).max(initial=0))


@contextmanager
def _regular_file(path: Path) -> Iterator[BinaryIO]:
    try:
        with open_regular(path) as file:
            yield file
    except OSError as failure:
        raise BadWeights(f"{path.name} cannot be read: {failure}") from failure


def _read_header(path: Path) -> Iterator[StoredTensor]:
    with _regular_file(path) as file:
        try:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            if length > _MAX_HEADER_BYTES:
                raise BadWeights(f"{path.name}: its header would be {length} bytes long")
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            begin, end = _LENGTH.size + length, os.fstat(file.fileno()).st_size
            for name, entry in header.items():
                first, last = map(int, entry["data_offsets"])
                shape = tuple(map(int, entry["shape"]))
                tensor = StoredTensor(path, name, str(entry["dtype"]), shape, begin + first, last - first)
                _check_place(tensor, first, end)
                yield tensor
        except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as broken:
            raise BadWeights(f"{path.name} is no safetensors file: {broken}") from broken


def _check_place(tensor: StoredTensor, first: int, end: int) -> None:
    where = f"{tensor.path.name}: {tensor.name}"
    if tensor.dtype not in _BYTES:
        raise BadWeights(f"{where} is stored as {tensor.dtype}, whose size is not known")
    if min(tensor.shape, default=1) < 0 or first < 0 or tensor.size_bytes != tensor.values * _BYTES[tensor.dtype]:
        raise BadWeights(
            f"{where} has {tensor.size_bytes} bytes for {list(tensor.shape)} values of {_BYTES[tensor.dtype]} bytes"
        )
    if tensor.begin + tensor.size_bytes > end:
        raise BadWeights(f"{where} reaches beyond the end of the file")
