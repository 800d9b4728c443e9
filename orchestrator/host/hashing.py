"""sha256 of large files, on all cores: files beside each other, and the blocks of one file beside each other.

sha256 goes through a file in order, so that one large file keeps one core busy and no more. Where the digests of its
blocks are known as well, they are computed side by side.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.contract import open_regular

BLOCK_BYTES = 64 * 2**20
_READ_BYTES = 2**20

Poll = Callable[[], None]
"""Called between any two reads, in several threads at once; what it raises ends the work."""


@dataclass(frozen=True)
class Span:
    """A part of a file: `size_bytes` from `begin` on, or to the file's end where it is None."""

    path: Path
    begin: int = 0
    size_bytes: int | None = None


def never() -> None:
    """A poll that lets the work go on."""


def blocks_of(path: Path, size_bytes: int) -> tuple[Span, ...]:
    """A file of this size in blocks; none for a file of one block, whose digest is the file's."""
    if size_bytes <= BLOCK_BYTES:
        return ()
    return tuple(Span(path, begin, min(BLOCK_BYTES, size_bytes - begin)) for begin in range(0, size_bytes, BLOCK_BYTES))


def digests(spans: Iterable[Span], poll: Poll = never) -> Mapping[Span, str]:
    """sha256 of each span, in hexadecimal. The first failure, or what `poll` raises, ends all threads.

    Raises:
        OSError: a file cannot be read, or is no regular file.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="hash") as pool:
        found: dict[Span, Future[str]] = {one: pool.submit(_digest, one, poll, stop) for one in dict.fromkeys(spans)}
        try:
            return {span: future.result() for span, future in found.items()}
        except BaseException:
            stop.set()
            raise


class _Stopped(Exception):
    """Another thread has failed; nobody asks for this digest any more."""


def _digest(span: Span, poll: Poll, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_READ_BYTES))
    with open_regular(span.path) as file:
        file.seek(span.begin)
        left = span.size_bytes
        while left is None or left > 0:
            if stop.is_set():
                raise _Stopped
            poll()
            read = file.readinto(buffer if left is None else buffer[:left])  # type: ignore[attr-defined]
            if not read:
                break
            digest.update(buffer[:read])
            left = None if left is None else left - read
    return digest.hexdigest()
