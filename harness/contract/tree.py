"""What the digest of a folder is. Both sides of the contract compute it, so it is defined once, here."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from harness.contract.artifact import FileEntry
from harness.contract.base import digest_of

_CHUNK_BYTES = 4 * 2**20


class UnsafeTree(Exception):
    """A folder holds something that no artifact may hold: a link, a socket, a device."""


def digest_file(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def list_tree(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every regular file below `folder`, with its path relative to it, in the order of these.

    Raises:
        UnsafeTree: something below is neither a regular file nor a folder, or is a symbolic link.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UnsafeTree(f"{name} in {folder} is not a regular file")
        if path.is_file():
            yield name, path


def describe_tree(folder: Path, *, leave_out: frozenset[str] = frozenset()) -> dict[str, FileEntry]:
    """Size and sha256 of every regular file below `folder`, by its path relative to it.

    Raises:
        UnsafeTree: something below is neither a regular file nor a folder, or is a symbolic link.
        OSError: a file cannot be read.
    """
    return {
        name: FileEntry(size_bytes=path.stat().st_size, sha256=digest_file(path))
        for name, path in list_tree(folder)
        if name not in leave_out
    }


def digest_tree(folder: Path) -> str:
    """One digest over the names, sizes and contents of a folder's files. Raises as `describe_tree` does."""
    return digest_of({name: entry.model_dump(mode="json") for name, entry in describe_tree(folder).items()})
