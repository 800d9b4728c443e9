"""Folders that workers have below this machine's temporary one: named by their owner, so that none outlives it.

A name is known before its folder is made. Short, since sockets are made below.
"""

import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.host.files import remove_if_there, scratch_folder
from orchestrator.host.owner import Owner
from orchestrator.host.worker_user import worker_user

_PREFIX = "llmcbench-"
_NAME = re.compile(rf"{_PREFIX}(?P<owner>[0-9a-f]{{8}}-\d+-\d+)-[0-9a-f]{{8}}")
_TOKEN_CHARACTERS = 8


def scratch_path(owner: Owner, token: str) -> Path:
    """Where the work that is known by `token`, in hexadecimal digits, has its folder."""
    return Path(tempfile.gettempdir()) / _name(owner, token)


@contextmanager
def own_scratch() -> Iterator[Path]:
    """A folder for some work of this process, gone with all that is in it when the work ends."""
    with scratch_folder(scratch_path(Owner.current(), secrets.token_hex())) as folder:
        yield folder


def sweep_scratch(path: Path, owner: Owner, token: str) -> None:
    """Remove what is left of the folder of some work that is dead. A path of another name is let alone."""
    if path.name == _name(owner, token) and not path.is_symlink():
        remove_if_there(path)


def sweep_all_scratch() -> None:
    """Remove the folders of all owners on this host that are dead, though nobody may know their work any more.

    Those of other users are let alone, but for a worker's.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        found = _NAME.fullmatch(path.name)
        owner = None if found is None else Owner.marked(found["owner"])
        if owner is not None and owner.is_dead() and _is_ours(path):
            remove_if_there(path)


def _is_ours(path: Path) -> bool:
    with suppress(OSError):
        facts = path.lstat()
        return stat.S_ISDIR(facts.st_mode) and facts.st_uid in (os.geteuid(), worker_user()[0])
    return False


def _name(owner: Owner, token: str) -> str:
    return f"{_PREFIX}{owner.mark}-{token[:_TOKEN_CHARACTERS]}"
