"""An environment of the process runtime that is this very Python, so that a test need not install a lock."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from harness.contract import DeviceKind
from orchestrator.images.image import Image
from orchestrator.images.package_sources import PackageSources
from orchestrator.runtime import environments
from orchestrator.runtime.environments import Environments
from orchestrator.runtime.process import ENVIRONMENTS_NAME

_CHECKOUT = Path(__file__).parents[2]


def stand_in(root: Path, image: Image, device: DeviceKind) -> None:
    """Let the store at `root` have an environment for the image's lock. What is in it are the tests' own packages."""
    with mock.patch.object(environments, "run_uv", bare_environment):
        Environments(root / ENVIRONMENTS_NAME).prepare(image, device, lambda note: None)


def stand_in_for_a_worker(root: Path, image: Image, device: DeviceKind, worker: Sequence[str]) -> None:
    """As `stand_in`, where the harness of the environment is `worker`, as arguments of this Python."""
    stand_in(root, image, device)
    starter = Environments(root / ENVIRONMENTS_NAME).prepare(image, device, lambda note: None).python
    command = f"cd {shlex.quote(str(_CHECKOUT))} && exec {shlex.quote(sys.executable)} {shlex.join(worker)}"
    starter.write_text(
        f'#!/bin/sh\nif [ "$1 $2" = "-m harness" ]; then {command}; fi\nexec {shlex.quote(sys.executable)} "$@"\n',
        encoding="utf-8",
    )


def bare_environment(arguments: Sequence[str], sources: PackageSources, *, python: str = sys.executable) -> str:
    """In place of uv: an environment whose Python is another one, with nothing of its own in it."""
    if arguments[0] == "venv":
        starter = Path(arguments[-1]) / "bin" / "python"
        starter.parent.mkdir(parents=True)
        starter.write_text(f'#!/bin/sh\nexec {python} "$@"\n', encoding="ascii")
        starter.chmod(0o755)
    return ""
