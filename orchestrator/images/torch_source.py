"""Where this machine gets the torch of a lock from: one rule for environments, images and what the tests need.

In this order: a package source of pip's configuration; PyTorch's own index, whose address uv knows; PyPI's build of the
same version in its stead, where the locks pin that too. A build counts only with a hash that the lock names.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.contract import DeviceKind
from orchestrator.errors import BadImage
from orchestrator.images.image import Image
from orchestrator.images.locking import PLATFORM, PYTHON_VERSION
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.torch_build import CpuBuild, added_entries, cpu_build, from_address
from orchestrator.images.uv import UvFailed, run_uv

Target = tuple[str, ...]
"""For which Python a build is looked for, as options of uv."""

CONTAINER: Target = ("--python-version", PYTHON_VERSION, "--python-platform", PLATFORM)
_SILENCE_SECONDS = 30
"""Of a source, before it counts as one that cannot be reached. The look itself may take longer: where other work takes
the cores it does, and a source that has the build must not count as one without it then."""


def interpreter(python: Path | str) -> Target:
    """The Python of a virtual environment."""
    return ("--python", str(python))


@dataclass(frozen=True)
class Decision:
    """`stands_in`: PyPI's build is taken. `note` says what is not taken from where the lock has it; empty otherwise."""

    stands_in: bool = False
    note: str = ""


def choose_build(image: Image, device: DeviceKind, sources: PackageSources, target: Target) -> tuple[Image, Decision]:
    """The image itself where its torch can be had, else the one with PyPI's build.

    Raises:
        BadImage: neither can be had.
    """
    instead = image.stand_in if device is DeviceKind.CPU else None
    text = None if instead is None else instead.lock_text(device)
    decision = decide(image.lock_text(device), text, sources, target)
    return (instead, decision) if instead is not None and decision.stands_in else (image, decision)


@cache
def decide(lock: str, with_pypi_build: str | None, sources: PackageSources, target: Target) -> Decision:
    """Whether the lock can be installed as it is, or `with_pypi_build` is to be installed instead of it.

    Raises:
        BadImage: neither build of torch can be had.
    """
    build = cpu_build(lock)
    if build is None:
        return Decision()
    place = _find(build, sources, target)
    if place.configured:
        return Decision()
    if place.address is not None:
        return Decision(note=f"torch {build.version}+cpu comes from PyTorch's own index{_size(place.size_bytes)}")
    hint = (
        "let pip find it: `PIP_EXTRA_INDEX_URL` with PyTorch's index for CPUs, or `PIP_FIND_LINKS` with a folder that "
        "has the wheel (`pip config list` shows what holds)"
    )
    if with_pypi_build is None:
        raise BadImage(f"no package source here has {build.requirement}: {place.why}", hint=hint)
    added = added_entries(lock, with_pypi_build)
    try:
        found = _resolve("".join(added), sources, target)
    except UvFailed as failure:
        raise BadImage(
            f"no package source here has {build.requirement} ({place.why}), nor PyPI's build of the same version: "
            f"{failure.summary}",
            hint=hint,
        ) from failure
    sizes = [_wheel(package).get("size") for package in found]
    total = None if None in sizes else sum(int(one) for one in sizes if one is not None)
    return Decision(
        stands_in=True,
        note=f"no package source here has {build.requirement}, so PyPI's build of the same version stands in, with the "
        f"CUDA libraries that it links to: {len(found)} packages{_size(total)}. It computes on the CPU too",
    )


def installable(lock: str, sources: PackageSources, target: Target) -> str:
    """The lock with an address for its torch, where that comes from PyTorch's own index; else as it is."""
    build = cpu_build(lock)
    address = None if build is None else _find(build, sources, target).address
    return lock if address is None else from_address(lock, address)


@dataclass(frozen=True)
class _Place:
    configured: bool = False
    address: str | None = None
    size_bytes: int | None = None
    why: str = ""


@cache
def _find(build: CpuBuild, sources: PackageSources, target: Target) -> _Place:
    try:
        packages = _resolve(build.requirement, sources, target)
        if any(_has_hash(package, build) for package in packages):
            return _Place(configured=True)
        why = "what they have is another file than the lock's"
    except UvFailed as failure:
        why = failure.summary
    try:
        packages = _resolve(build.requirement, sources, (*target, "--torch-backend", "cpu"))
    except UvFailed as failure:
        return _Place(why=f"{why}; PyTorch's own index: {failure.summary}")
    for package in packages:
        wheel = _wheel(package)
        if "url" in wheel and _has_hash(package, build):
            return _Place(address=str(wheel["url"]), size_bytes=wheel.get("size"))
    return _Place(why=f"{why}; PyTorch's own index has another file than the lock's")


def _has_hash(package: dict[str, Any], build: CpuBuild) -> bool:
    return _wheel(package).get("hashes", {}).get("sha256") in build.sha256


def _wheel(package: dict[str, Any]) -> dict[str, Any]:
    """The wheel of a resolved package for the target."""
    wheels = package.get("wheels") or [{}]
    return dict(wheels[0])


def _resolve(requirements: str, sources: PackageSources, target: Target) -> list[dict[str, Any]]:
    """The files that uv would install, without downloading them. Raises `UvFailed`."""
    with TemporaryDirectory() as scratch:
        wanted, found = Path(scratch) / "requirements.txt", Path(scratch) / "pylock.toml"
        wanted.write_text(requirements + "\n", encoding="utf-8")
        command = ["pip", "compile", str(wanted), "--output-file", str(found), "--format", "pylock.toml", "--quiet"]
        command += ["--no-deps", "--no-python-downloads", "--generate-hashes", *sources.uv_arguments(), *target]
        run_uv(command, sources, silence_seconds=_SILENCE_SECONDS)
        document = tomllib.loads(found.read_text(encoding="utf-8"))
    packages: list[dict[str, Any]] = document.get("packages", [])
    return packages


def _size(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f", {size_bytes / 1e9:.1f} GB to download unless cached"
