"""The one door to files that somebody else left, and what the digest of a folder is. Both sides of the contract use it.

Behind it lie regular files of bounded size in folders of bounded depth, under names that every program can show. What
else there may be, a link, a pipe, a device, thousands of folders in each other, is refused before it is opened.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from harness.contract.artifact import FileEntry
from harness.contract.base import digest_of
from harness.contract.text import escaped, unshowable

MOST_DEPTH = 32
"""Folders within each other; no checkpoint and no data set needs more than a few."""
MOST_ENTRIES = 100_000
MOST_DOCUMENT_BYTES = 64 * 2**20
"""Of a JSON document, whoever wrote it; the largest of the project's own have some MB."""
_CHUNK_BYTES = 4 * 2**20
_PAST_BYTES = 4096
"""What is asked for beyond a file's size, since it may grow."""


class UnsafeTree(Exception):
    """A folder holds something that no artifact may hold; the message names it."""


@contextmanager
def open_regular(path: Path, *, follow: bool = False) -> Iterator[BinaryIO]:
    """A regular file, opened unbuffered and never waited for; a link to one with `follow` alone.

    Raises:
        OSError: it is anything else, or cannot be read.
    """
    descriptor, _ = _opened(path, follow=follow)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        yield cast("BinaryIO", file)


def _opened(path: Path, *, follow: bool) -> tuple[int, int]:
    """The descriptor of a regular file, and its size in bytes. Raises as `open_regular` does."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as failure:
        if failure.errno == errno.ELOOP and not follow and path.is_symlink():
            raise OSError(f"{escaped(path.name)} is a symbolic link, not a regular file") from failure
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError(f"{escaped(path.name)} is not a regular file")
    return descriptor, found.st_size


def read_regular(path: Path, most_bytes: int = MOST_DOCUMENT_BYTES, *, follow: bool = False) -> bytes:
    """All of a regular file that is no link, or with `follow` may be one.

    Raises:
        OSError: it is anything else, larger, or cannot be read.
    """
    descriptor, size = _opened(path, follow=follow)
    try:
        if size > most_bytes:
            raise OSError(f"{escaped(path.name)} has {size} bytes, more than the {most_bytes} that it may have")
        pieces, length = [], 0
        while length <= most_bytes and (piece := os.read(descriptor, min(_CHUNK_BYTES, size - length + _PAST_BYTES))):
            pieces.append(piece)
            length += len(piece)
            size = max(size, length)
    finally:
        os.close(descriptor)
    if length > most_bytes:
        raise OSError(f"{escaped(path.name)} has more than the {most_bytes} bytes that it may have")
    return b"".join(pieces)


def digest_file(path: Path) -> str:
    """sha256 of a regular file's content, in hexadecimal; links are followed.

    Raises:
        OSError: it is no regular file, or cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path, follow=True) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def list_tree(folder: Path, links_into: Path | None = None) -> Iterator[tuple[str, Path]]:
    """Every regular file below `folder`, with its path relative to it, in the order of these.

    With `links_into`, a link to a regular file below that folder is such a file.

    Raises:
        UnsafeTree: the folder is a link or none; something below is neither a regular file nor a folder, is another
            symbolic link, lies too deep, has a name that cannot be shown, or says that it is larger than the disk.
        OSError: a folder cannot be read.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise UnsafeTree(f"{escaped(folder.name)} is no folder, or a link to one")
    disk = os.statvfs(folder)
    disk_bytes = disk.f_frsize * disk.f_blocks
    files: list[Path] = []
    waiting, entries = [(folder, 1)], 0
    while waiting:
        inside, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise UnsafeTree(f"{escaped(folder.name)} holds more than {MOST_DEPTH} folders within each other")
        with os.scandir(inside) as found:
            for entry in found:
                entries += 1
                path = inside / entry.name
                name = path.relative_to(folder).as_posix()
                _require_usual(entry, name, disk_bytes, links_into)
                if entries > MOST_ENTRIES:
                    raise UnsafeTree(f"{escaped(folder.name)} holds more than {MOST_ENTRIES} files and folders")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((path, depth + 1))
                else:
                    files.append(path)
    for path in sorted(files):
        yield path.relative_to(folder).as_posix(), path


def _require_usual(entry: os.DirEntry[str], name: str, disk_bytes: int, links_into: Path | None) -> None:
    if found := unshowable(name):
        raise UnsafeTree(f"the name {escaped(name)!r} holds {found}; rename it")
    found_as = entry.stat(follow_symlinks=False)
    if stat.S_ISLNK(found_as.st_mode):
        if links_into is None:
            raise UnsafeTree(f"{name} is a symbolic link, not a regular file")
        if not _leads_into(Path(entry.path), links_into):
            raise UnsafeTree(f"{name} is a link to no file of {escaped(links_into.name)}")
        found_as = entry.stat()
    mode, size = found_as.st_mode, found_as.st_size
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UnsafeTree(f"{name} is not a regular file")
    if 0 < disk_bytes < size and stat.S_ISREG(mode):
        raise UnsafeTree(f"{name} says that it has {size} bytes, and the whole disk has {disk_bytes}")


def _leads_into(link: Path, folder: Path) -> bool:
    """Whether a link ends at a regular file below `folder`, by whatever way but an absolute path of this machine."""
    try:
        if link.readlink().is_absolute():
            return False
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return target.is_file() and target.is_relative_to(folder.resolve())


def describe_tree(
    folder: Path, *, leave_out: frozenset[str] = frozenset(), links_into: Path | None = None
) -> dict[str, FileEntry]:
    """Size and sha256 of every regular file below `folder`, by its path relative to it. `links_into`: see `list_tree`.

    Raises:
        UnsafeTree: as `list_tree` does.
        OSError: a file cannot be read.
    """
    return {
        name: FileEntry(size_bytes=path.stat().st_size, sha256=digest_file(path))
        for name, path in list_tree(folder, links_into)
        if name not in leave_out
    }


def digest_tree(folder: Path, links_into: Path | None = None) -> str:
    """One digest over the names, sizes and contents of a folder's files. Raises as `describe_tree` does."""
    files = describe_tree(folder, links_into=links_into)
    return digest_of({name: entry.model_dump(mode="json") for name, entry in files.items()})
