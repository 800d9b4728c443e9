"""The ends of files that others write, and may be writing now: bounded, and without what makes a terminal act."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from harness.contract.text import plain_lines
from harness.contract.tree import open_regular

MOST_LOG_BYTES = 64 * 2**10
MOST_DOCUMENT_BYTES = 256 * 2**10
"""Read of a JSON document, and at most so many characters shown."""
_CUT = "\n… the rest is left out here"


@dataclass(frozen=True)
class Tail:
    """`left_out_bytes` came before `text`. `absent` says why there is none."""

    text: str = ""
    left_out_bytes: int = 0
    absent: str = ""


def end_of(path: Path, most_bytes: int = MOST_LOG_BYTES) -> Tail:
    """The last whole lines of a regular file."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            begin = max(0, size - most_bytes)
            file.seek(begin)
            content = file.read(most_bytes)
    except FileNotFoundError:
        return Tail(absent="there is none")
    except OSError as failure:
        return Tail(absent=f"it cannot be read: {plain_lines(str(failure.strerror or failure))}")
    if begin > 0 and b"\n" in content:
        part, _, content = content.partition(b"\n")
        begin += len(part) + 1
    return Tail(plain_lines(content.decode(errors="replace")), begin)


def document(path: Path) -> Tail:
    """A JSON document, indented; as it stands where it is none, or is larger than what is read of one."""
    try:
        with open_regular(path) as file:
            content = file.read(MOST_DOCUMENT_BYTES)
            is_whole = not file.read(1)
    except FileNotFoundError:
        return Tail(absent="there is none")
    except OSError as failure:
        return Tail(absent=f"it cannot be read: {plain_lines(str(failure.strerror or failure))}")
    text = content.decode(errors="replace")
    if not is_whole:
        return Tail(plain_lines(text) + _CUT)
    try:
        return Tail(plain_lines(_indented(text)))
    except (ValueError, RecursionError):
        return Tail(plain_lines(text))


def _indented(text: str) -> str:
    """Of bounded size: what is deep grows by far when it is indented."""
    shown: list[str] = []
    left = MOST_DOCUMENT_BYTES
    for piece in json.JSONEncoder(indent=1, ensure_ascii=False).iterencode(json.loads(text)):
        left -= len(piece)
        if left < 0:
            return "".join(shown) + _CUT
        shown.append(piece)
    return "".join(shown)
