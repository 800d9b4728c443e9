"""The identity of the harness's own source: part of every stage's key, and of what every worker says of itself."""

import hashlib
from functools import cache
from pathlib import Path

_SUFFIXES = {".py", ".yaml", ".toml"}


def harness_folder() -> Path:
    """The harness package itself, which images are built from and process environments import."""
    return Path(__file__).parent.parent


@cache
def harness_digest() -> str:
    """sha256 over the names, sizes and contents of the harness's source files."""
    root = harness_folder()
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in _SUFFIXES:
            digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
