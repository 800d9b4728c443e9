"""An environment of the process runtime that is this very Python, so that a test need not install a lock."""

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


def stand_in(root: Path, image: Image, device: DeviceKind) -> None:
    """Let the store at `root` have an environment for the image's lock. What is in it are the tests' own packages."""
    with mock.patch.object(environments, "run_uv", bare_environment):
        Environments(root / ENVIRONMENTS_NAME).prepare(image, device, lambda note: None)


def bare_environment(arguments: Sequence[str], sources: PackageSources, *, python: str = sys.executable) -> str:
    """In place of uv: an environment whose Python is another one, with nothing of its own in it."""
    if arguments[0] == "venv":
        starter = Path(arguments[-1]) / "bin" / "python"
        starter.parent.mkdir(parents=True)
        starter.write_text(f'#!/bin/sh\nexec {python} "$@"\n', encoding="ascii")
        starter.chmod(0o755)
    return ""
