"""Writing so that a kill at any instant leaves the old file or the new one, never a part."""

import os
import secrets
import shutil
from pathlib import Path

REMOVING = ".removing"
"""Ends the name of what was being deleted when a process died."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` as a whole; the content is on disk before the name points at it."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
    """Take the write permission from every file below, so that nothing changes a published artifact by accident."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode & ~0o222)


def remove(path: Path) -> int:
    """Delete a file or a whole folder and return the bytes it held. Its name vanishes first, in one step."""
    held = size_bytes(path)
    doomed = path.with_name(f".{secrets.token_hex(8)}{REMOVING}")
    path.rename(doomed)
    if doomed.is_dir():
        shutil.rmtree(doomed)
    else:
        doomed.unlink()
    return held


def size_bytes(folder: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if folder.is_file():
        return folder.lstat().st_size
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
