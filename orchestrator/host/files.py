"""Writing so that a kill at any instant leaves the old file or the new one, and removing whatever somebody left."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.contract import list_tree
from orchestrator.host.owner import Owner

REMOVING = ".removing"
"""Ends the name of what was being deleted when a process died."""
PUBLISHED = 0o444
"""The mode of a published file: for all to read, and for nobody to write or to run."""
KEPT = 0o644
KEPT_FOLDER = 0o755
_MINE = 0o700
_BLOCK_BYTES, _LEAST_BYTES = 512, 4096


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` as a whole; the content is on disk before the name points at it.

    What a kill leaves beside it is called by its owner, for `sweep_unfinished`.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{Owner.current().mark}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep_unfinished(folder: Path) -> None:
    """Remove what dead owners on this host were writing at, in the folder and below."""
    for path in folder.rglob(".*.tmp"):
        owner = Owner.marked(path.name.split(".")[-2].rpartition("-")[0])
        if owner is not None and owner.is_dead():
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mount_of(folder: Path) -> tuple[int, str]:
    """What two folders have in common where a name can be moved from one to the other: their disk and their mount."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        facts = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii")
        mount = next((line for line in facts.splitlines() if line.startswith("mnt_id:")), "")
        return os.fstat(descriptor).st_dev, mount
    finally:
        os.close(descriptor)


def protect(folder: Path) -> None:
    """Make what a worker left this user's, and its files read-only for everybody.

    Raises:
        UnsafeTree: the folder is a link, or holds something that is neither a file nor a folder.
        OSError: it cannot be changed.
    """
    files = [path for _, path in list_tree(folder)]
    for path in _folders_of(folder, files):
        owned(path, KEPT_FOLDER)
    for path in files:
        owned(path, PUBLISHED)


def _folders_of(folder: Path, files: Iterable[Path]) -> list[Path]:
    """The folder, and those between it and its files."""
    between = {parent for path in files for parent in path.parents if parent.is_relative_to(folder)}
    return sorted({folder, *between})


def owned(path: Path, mode: int) -> None:
    """Make a file or folder this user's, with exactly these permissions; a link is never followed.

    Raises:
        OSError: it is a link or cannot be opened or changed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if os.geteuid() == 0:
            os.fchown(descriptor, os.geteuid(), os.getegid())
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def give(folder: Path, user: tuple[int, int]) -> None:
    """Make a folder of this user's, and all below it, another user's (uid, gid). Only root can.

    Raises:
        UnsafeTree: it holds something that is neither a file nor a folder.
        OSError: it cannot be changed.
    """
    files = [path for _, path in list_tree(folder)]
    for path in (*_folders_of(folder, files), *files):
        os.chown(path, *user, follow_symlinks=False)


def remove(path: Path) -> int:
    """Delete a file or a folder, however deep, and return the bytes it held. Its name vanishes first, in one step.

    Raises:
        OSError: something of it cannot be deleted.
    """
    doomed = path.with_name(f".{secrets.token_hex(8)}{REMOVING}")
    path.rename(doomed)
    return _delete(doomed)


def remove_if_there(path: Path) -> None:
    """As `remove`, for what may not be there; what cannot be deleted stays, under a name that a sweep will find."""
    with suppress(OSError):
        remove(path)


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what cannot be looked into counts nothing."""
    total, waiting = 0, [path]
    while waiting:
        one = waiting.pop()
        with suppress(OSError):
            if one.is_symlink() or not one.is_dir():
                total += _held(one.lstat())
                continue
            with os.scandir(one) as found:
                waiting += [one / entry.name for entry in found]
    return total


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A new folder at `path`, removed with whatever somebody put into it."""
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        with suppress(OSError):
            _delete(path)


def _held(status: os.stat_result) -> int:
    """What a file takes of the disk: its size, unless most of that was never written."""
    return min(status.st_size, max(status.st_blocks * _BLOCK_BYTES, _LEAST_BYTES))


def _delete(doomed: Path) -> int:
    """Folders within folders are moved up one by one, so that neither the depth nor a path's length has a bound."""
    if doomed.is_symlink() or not doomed.is_dir():
        held = _held(doomed.lstat())
        doomed.unlink()
        return held
    doomed.chmod(_MINE)
    mark, moved = secrets.token_hex(8), 0
    with _opened(doomed) as top:
        waiting, held = _unlink_files(top)
        while waiting:
            name = waiting.pop()
            os.chmod(name, _MINE, dir_fd=top)
            with _opened(name, top) as inside:
                folders, more = _unlink_files(inside)
                held += more
                for folder in folders:
                    moved += 1
                    os.chmod(folder, _MINE, dir_fd=inside)
                    os.rename(folder, f".{mark}.{moved}", src_dir_fd=inside, dst_dir_fd=top)
                    waiting.append(f".{mark}.{moved}")
            os.rmdir(name, dir_fd=top)
    doomed.rmdir()
    return held


@contextmanager
def _opened(folder: Path | str, inside: int | None = None) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _unlink_files(folder: int) -> tuple[list[str], int]:
    """Delete what is no folder in an open folder; the names of the folders in it, and the bytes that were held."""
    folders, held = [], 0
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.name)
        else:
            held += _held(entry.stat(follow_symlinks=False))
            os.unlink(entry.name, dir_fd=folder)
    return folders, held
