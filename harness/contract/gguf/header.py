"""The header of a GGUF file: its fields, and where each tensor lies.

Read in time and memory that the size of the file bounds. Versions 2 and 3, little-endian, in one file. Of what a header
says nothing is believed before the file is long enough for it. Source: the GGUF specification.
"""

import math
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.contract.base import Reason
from harness.contract.ggml import BLOCKS
from harness.contract.stored import StoredTensor
from harness.contract.suggest import quoted

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MOST_DIMENSIONS = 4
_MOST_ENTRIES = 2**24
"""Of fields, tensors, or an array: no vocabulary is that long."""
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""`struct` formats by type number."""
_AGAIN = "copy or download the file again"


class RefusedGguf(Exception):
    """The file cannot be used, and why. `reason` None: it is damaged; else it is sound, and not understood here."""

    def __init__(self, message: str, *, hint: str = _AGAIN, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reason = reason


@dataclass(frozen=True)
class GgufHeader:
    """`fields` are numbers, truth values, texts, arrays of numbers (numpy) and of texts (tuples), by name."""

    fields: dict[str, Any]
    tensors: dict[str, StoredTensor]

    def text(self, name: str) -> str:
        """A field that has to hold a text.

        Raises:
            RefusedGguf: it is not there, or holds something else.
        """
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise RefusedGguf(f"the header's {name} is {_shown(value)} where a text belongs")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        """A field that has to hold a whole number, 0 or more; `default` where it is not there.

        Raises:
            RefusedGguf: it is not there and has no default, or holds something else.
        """
        value = self.fields.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise RefusedGguf(f"the header's {name} is {_shown(value)} where a whole number belongs")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A field that has to hold a positive number, as the decimal that a 32-bit one was written from.

        Raises:
            RefusedGguf: it is not there and has no default, or holds something else.
        """
        value = self.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise RefusedGguf(f"the header's {name} is {_shown(value)} where a positive number belongs")
        return float(str(np.float32(value)))

    def flag(self, name: str, *, default: bool) -> bool:
        """A field that has to hold a truth value, where it is there.

        Raises:
            RefusedGguf: it holds something else.
        """
        value = self.fields.get(name, default)
        if not isinstance(value, bool):
            raise RefusedGguf(f"the header's {name} is {_shown(value)} where a truth value belongs")
        return value


def read_header(path: Path) -> GgufHeader:
    """Read the header of the GGUF file at `path`.

    Raises:
        RefusedGguf: it is no regular file, no GGUF, damaged, shorter than it says, or in a form that is not read here.
        OSError: it cannot be opened or read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise RefusedGguf(f"{path.name} is not a regular file", hint="give the path of a .gguf file")
        if status.st_size < len(_MAGIC) + 4:
            raise RefusedGguf(f"{path.name} is no GGUF file", hint="give the path of a .gguf file")
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
            try:
                return _Reading(path, content).header()
            except UnicodeDecodeError as broken:
                raise RefusedGguf(f"{path.name} holds a text that is not UTF-8: {broken}") from broken
    finally:
        os.close(descriptor)


class _Reading:
    """One pass over the header. `at` never leaves the file."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path = path
        self.name = path.name
        self.content = content
        self.at = 0

    def header(self) -> GgufHeader:
        if self._take(4) != _MAGIC:
            raise RefusedGguf(f"{self.name} is no GGUF file", hint="give the path of a .gguf file")
        if (version := self._number("<I")) not in _VERSIONS:
            raise RefusedGguf(
                f"{self.name} is GGUF of version {version}, and 2 and 3, little-endian, are read here",
                hint="convert it with a current llama.cpp",
                reason=Reason.FORMAT,
            )
        tensor_count, field_count = self._entries("<Q"), self._entries("<Q")
        fields: dict[str, Any] = {}
        for _ in range(field_count):
            key = self._string()
            if key in fields:
                raise RefusedGguf(f"{self.name} has the field {quoted(key)} twice")
            fields[key] = self._value(self._number("<I"), key)
        described = [self._description() for _ in range(tensor_count)]
        tensors: dict[str, StoredTensor] = {}
        begin = self._aligned(fields)
        for name, kind, shape, offset in described:
            if name in tensors:
                raise RefusedGguf(f"{self.name} has the tensor {quoted(name)} twice")
            tensors[name] = self._placed(name, kind, shape, begin + offset)
        return GgufHeader(fields, tensors)

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            raise RefusedGguf(f"{self.name} is damaged: the field {quoted(key)} is of the unknown type {kind}")
        return self._number(_SCALARS[kind])

    def _array(self, key: str) -> "tuple[str, ...] | NDArray[Any]":
        kind, count = self._number("<I"), self._entries("<Q")
        if kind == _STRING:
            return tuple(self._string() for _ in range(count))
        if kind not in _SCALARS:
            raise RefusedGguf(f"{self.name} is damaged: the array {quoted(key)} is of the unknown type {kind}")
        form = np.dtype(_SCALARS[kind])
        return np.frombuffer(self._take(count * form.itemsize), dtype=form)

    def _description(self) -> tuple[str, int, tuple[int, ...], int]:
        name, dimensions = self._string(), self._number("<I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise RefusedGguf(f"{self.name} is damaged: the tensor {quoted(name)} has {dimensions} dimensions")
        sizes = tuple(self._number("<Q") for _ in range(dimensions))
        return name, self._number("<I"), sizes[::-1], self._number("<Q")

    def _aligned(self, fields: dict[str, Any]) -> int:
        """Where the tensors begin."""
        alignment = fields.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
            raise RefusedGguf(f"{self.name} is damaged: its alignment is {_shown(alignment)}")
        return self.at + -self.at % alignment

    def _placed(self, name: str, kind: int, shape: tuple[int, ...], begin: int) -> StoredTensor:
        if kind not in BLOCKS:
            raise RefusedGguf(
                f"{self.name} stores {quoted(name)} in type {kind} of ggml, which is not dequantized here",
                hint="quantize the model to another type, such as Q4_K_M",
                reason=Reason.FORMAT,
            )
        stored, values, size_bytes = BLOCKS[kind]
        if shape[-1] % values or 0 in shape:
            raise RefusedGguf(
                f"{self.name} is damaged: no whole blocks of {stored} make a {quoted(name)} of {list(shape)}"
            )
        size = math.prod(shape) // values * size_bytes
        if begin + size > len(self.content):
            raise RefusedGguf(
                f"{self.name} is cut off: it ends at byte {len(self.content)}, and {quoted(name)} at {begin + size}"
            )
        return StoredTensor(self.path, name, stored, shape, begin, size)

    def _entries(self, form: str) -> int:
        count: int = self._number(form)
        if count > _MOST_ENTRIES or count > len(self.content) - self.at:
            raise RefusedGguf(f"{self.name} is damaged: it counts {count} entries where there is no room for them")
        return count

    def _string(self) -> str:
        return self._take(self._number("<Q")).decode("utf-8")

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, size: int) -> bytes:
        if size > len(self.content) - self.at:
            raise RefusedGguf(f"{self.name} is cut off or damaged: its header goes beyond its end")
        self.at += size
        return self.content[self.at - size : self.at]


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:80]
