"""Installs locks with uv, into virtual environments of the Python that runs this."""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.errors import BadImage
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.torch_build import named_entries, with_pypi_build
from orchestrator.images.torch_source import decide, installable, interpreter
from orchestrator.images.uv import UvFailed, run_uv

_BUILDERS = frozenset({"setuptools", "wheel"})
LOOK_UP_HINT = "check the network and pip's configuration (`pip config list`): uv is given the same package sources"


def install_lock(lock: str, python: Path, sources: PackageSources, note: Callable[[str], None] | None = None) -> None:
    """Install every requirement of a lock, under its hashes and without looking at what those need themselves.

    What builds packages from source comes first: the environment may hold an older one, or none.
    `note` is told what uv is at, where it takes long.

    Raises:
        UvFailed: one cannot be had or built.
    """
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "lock.txt"
        command = ["pip", "install", "--python", str(python), "--require-hashes", "--no-deps", "--no-build-isolation"]
        whole = installable(lock, sources, interpreter(sys.executable))
        for requirements in filter(None, (named_entries(whole, _BUILDERS), whole)):
            file.write_text(requirements, encoding="utf-8")
            run_uv([*command, "--requirement", str(file), *sources.uv_arguments()], sources, say=note)


def install_file(path: Path, cuda_lock: Path, note: Callable[[str], None]) -> None:
    """Install a lock into the environment of this process. `cuda_lock` pins PyPI's torch, should that have to stand in.

    Raises:
        BadImage: something of it cannot be installed.
    """
    lock = path.read_text(encoding="utf-8")
    sources = PackageSources.configured()
    instead = with_pypi_build(lock, cuda_lock.read_text(encoding="utf-8"))
    decision = decide(lock, instead, sources, interpreter(sys.executable))
    if decision.note:
        note(decision.note)
    try:
        install_lock(
            instead if decision.stands_in and instead is not None else lock, Path(sys.executable), sources, note
        )
    except UvFailed as failure:
        raise BadImage(f"{path} cannot be installed: {failure}", hint=LOOK_UP_HINT) from failure
