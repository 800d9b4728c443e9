"""Reads what a worker kept of each item: whole, each item once, and none that contradicts itself."""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from harness.contract import read_regular
from harness.contract.items import ORIGINAL, FidelityItem, Item, JudgedItem, item_type

MOST_BYTES = 2**30
"""Unpacked; the outcomes of the largest task take 5 MB."""

_PIECE_BYTES = 2**20
_DAMAGES = (OSError, EOFError, zlib.error, ValueError, RecursionError)
"""All that reading, unpacking and parsing bytes of any kind can raise."""
_Kept = TypeVar("_Kept", bound=Item | FidelityItem)


class Contradiction(Exception):
    """A result is not what its parts give, or these are missing or damaged; the message is a clause."""


@dataclass(frozen=True)
class OutcomesFile:
    """Where the outcomes of one evaluation lie, of items of the data set with the digest `data`.

    The digest tells segments of one text from those of another; questions name their own row of the data set, so the
    same questions from another source are the same items. `sha256` is the file's, where that was written down.
    `numbers` are those of its items, ascending, where they are drawn; None where they go from 0 without a gap.
    """

    path: Path
    data: str = ""
    sha256: str | None = None
    numbers: tuple[int, ...] | None = None


def read_items(file: OutcomesFile) -> tuple[Item, ...]:
    """The items of an evaluation by their numbers, which are those that are due; there is at least one, all of a kind.

    Raises:
        Contradiction: the file is missing, damaged, not the one that was written, or has items that contradict
            themselves or each other.
    """
    items = _read(file, _one_kind)
    judged = cast("Sequence[JudgedItem]", items if isinstance(items[0], JudgedItem) else ())
    metrics = {tuple(item.correct) for item in judged}
    if len({frozenset(names) - {ORIGINAL} for names in metrics if names}) > 1:
        raise Contradiction(f"{file.path.name} has items of different metrics")
    return items


def read_divergences(file: OutcomesFile) -> tuple[FidelityItem, ...]:
    """The items of a comparison with the dense model. Numbered, and raises, as `read_items` does."""
    return _read(file, lambda name, lines: FidelityItem)


def _read(file: OutcomesFile, kind_of: Callable[[str, list[bytes]], type[_Kept]]) -> tuple[_Kept, ...]:
    name = file.path.name
    lines = _lines(file)
    if not lines:
        raise Contradiction(f"{name} holds no items")
    items: list[_Kept] = sorted(_parsed(name, lines, kind_of(name, lines)), key=attrgetter("index"))
    found = [item.index for item in items]
    wanted = list(range(len(items)) if file.numbers is None else file.numbers)
    for number, due in zip_longest(found, wanted) if found != wanted else ():
        if number != due:
            raise Contradiction(f"{name} {_out_of_place(found, number, due)}")
    return tuple(items)


def _out_of_place(numbers: list[int], number: int | None, due: int | None) -> str:
    """What is wrong where an item has another number than is due."""
    if number is None or (due is not None and number > due):
        return f"lacks item {due}"
    return f"holds item {number}{' twice' if numbers.count(number) > 1 else ', which is not in the slice'}"


def _one_kind(name: str, lines: list[bytes]) -> type[Item]:
    kinds = {item_type(_object(name, number, lines[number])) for number in (0, len(lines) - 1)}
    if len(kinds) > 1:
        raise Contradiction(f"{name} holds items of different kinds")
    return kinds.pop()


def _parsed(name: str, lines: list[bytes], kind: Any) -> list[Any]:
    """All lines at once, which takes half the time of one by one."""
    items: list[Any]
    try:
        items = _items_of(kind).validate_json(b"[%s]" % b",".join(lines), extra="ignore")
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        if not first["loc"]:
            for number, line in enumerate(lines):
                _object(name, number, line)
        at, *field = first["loc"] or (0,)
        where = "".join(f"{part}: " for part in [".".join(map(str, field))] if part)
        reason = first["msg"].removeprefix("Value error, ")
        raise Contradiction(f"line {int(at) + 1} of {name}: {where}{reason}") from invalid
    return items


@cache
def _items_of(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(list[kind])


def _object(name: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as malformed:
        raise Contradiction(f"line {number + 1} of {name} is not readable: {malformed}") from malformed
    if not isinstance(found, dict):
        raise Contradiction(f"line {number + 1} of {name} is not readable: no JSON object")
    return found


def _lines(file: OutcomesFile) -> list[bytes]:
    """The JSON lines of the file, one an item. Raises `Contradiction`: missing, damaged, or not what was written."""
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


def _all_of(stream: BinaryIO) -> bytes:
    """At most a byte more than is allowed; in pieces, since a reader makes room for all that it is asked for."""
    pieces, length = [], 0
    while length <= MOST_BYTES and (piece := stream.read(min(_PIECE_BYTES, MOST_BYTES + 1 - length))):
        pieces.append(piece)
        length += len(piece)
    return b"".join(pieces)


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
                found = _all_of(stream)
        except zstandard.ZstdError as damaged:
            raise OSError(str(damaged)) from damaged
    else:
        raise OSError(f"no form is known by the ending {ending!r}")
    if len(found) > MOST_BYTES:
        raise OSError(f"it unpacks to more than {MOST_BYTES} bytes")
    return found
