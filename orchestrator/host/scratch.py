"""Workers' own folders outside of the store: known by name before they are made, so that none outlives its work."""

import tempfile
from pathlib import Path

from orchestrator.host.files import remove_if_there

_PREFIX = "llmcbench-"
_TOKEN_CHARACTERS = 16


def scratch_path(token: str) -> Path:
    """Where the work that is known by `token` has its folder. Short, since sockets are made below it."""
    return Path(tempfile.gettempdir()) / _name(token)


def sweep_scratch(path: Path, token: str) -> None:
    """Remove what is left of the folder of some work that is dead. A path of another name is let alone."""
    if path.name == _name(token) and not path.is_symlink():
        remove_if_there(path)


def _name(token: str) -> str:
    return f"{_PREFIX}{token[:_TOKEN_CHARACTERS]}"
