"""Outcomes kept while an evaluation runs, so that one that was interrupted goes on with the items that are left.

One file in the output's `resume` folder: a head with the fingerprint of what is evaluated, then one JSON line an item.
A slice that has been scored leaves it for the next one, or for the evaluation of all items.
Lines are appended and brought to the disk at least every 20 s. A line that was cut off by a kill is dropped.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Generic, Self

from pydantic import ValidationError

from harness.contract import RESUME_NAME, Frozen
from harness.evaluation.outcomes import ItemT

_FILE_NAME = "items.jsonl"
_WRITE_SECONDS = 20.0


class _Head(Frozen):
    fingerprint: str


class KeptOutcomes(Generic[ItemT]):
    """The outcomes of a task so far, by item number.

    Those of an earlier attempt count only if it had the same `fingerprint` and their number is below `count`.
    """

    def __init__(self, output: Path, fingerprint: str, item_type: type[ItemT], count: int) -> None:
        self._folder = output / RESUME_NAME
        self._path = self._folder / _FILE_NAME
        self._item_type = item_type
        self._count = count
        self._items: dict[int, ItemT] = {}
        self._waiting: list[bytes] = []
        self._written = time.monotonic()
        whole_bytes = self._read(fingerprint)
        self._file = self._open(fingerprint, whole_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.write()
        self._file.close()

    @property
    def items(self) -> Mapping[int, ItemT]:
        return self._items

    def add(self, index: int, item: ItemT) -> None:
        """Keep an item's outcome; it is on disk when `write` is called, or 20 s after the last time that it was."""
        self._items[index] = item
        self._waiting.append(item.model_dump_json().encode() + b"\n")
        if time.monotonic() - self._written >= _WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Bring everything so far to the disk."""
        if self._waiting:
            self._file.write(b"".join(self._waiting))
            self._waiting.clear()
            self._sync()
        self._written = time.monotonic()

    def _read(self, fingerprint: str) -> int:
        """Take over what an earlier attempt left; returns how many bytes of its file are whole."""
        if not self._path.is_file():
            return 0
        whole_bytes = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(_whole_lines(file)):
                if not (self._take(line) if number else _is_head(line, fingerprint)):
                    break
                whole_bytes += len(line)
        return whole_bytes

    def _take(self, line: bytes) -> bool:
        try:
            item = self._item_type.model_validate_json(line)
            index = int(json.loads(line)["index"])
        except (ValidationError, KeyError, ValueError):
            return False
        if index >= self._count:
            return False
        self._items.setdefault(index, item)
        return True

    def _open(self, fingerprint: str, whole_bytes: int) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._path.open("ab")
        file.truncate(whole_bytes)
        if whole_bytes == 0:
            file.write(_Head(fingerprint=fingerprint).model_dump_json().encode() + b"\n")
        self._file = file
        self._sync()
        return file

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def discard(output: Path) -> None:
    """Remove what was kept, once its items are in the result."""
    shutil.rmtree(output / RESUME_NAME)


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    return (line for line in file if line.endswith(b"\n"))


def _is_head(line: bytes, fingerprint: str) -> bool:
    try:
        return _Head.model_validate_json(line).fingerprint == fingerprint
    except ValidationError:
        return False
