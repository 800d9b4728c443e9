"""Writing so that a kill at any instant leaves the old file or the new one, never a part."""

import os
import secrets
import shutil
from pathlib import Path


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


def protect(folder: Path) -> None:
    """Take the write permission from every file below, so that nothing changes a published artifact by accident."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode & ~0o222)


def remove(folder: Path) -> int:
    """Delete a folder as a whole and return the bytes it held. It vanishes under its name first, in one step."""
    held = size_bytes(folder)
    doomed = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.removing")
    folder.rename(doomed)
    shutil.rmtree(doomed)
    return held


def size_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
