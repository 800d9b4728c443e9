"""Data sets of a few rows, in the files that a local data folder has."""

import gzip
import json
from pathlib import Path
from typing import Any


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as compressed JSON Lines, the same bytes each time, into a folder that does not exist yet."""
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0))
