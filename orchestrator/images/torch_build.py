"""Which build of torch a lock pins, and PyPI's build of the same version in its place: the text of locks alone.

Locks for a CPU pin PyTorch's own build for CPUs (`torch==2.13.0+cpu`), which PyPI does not carry. PyPI's build of that
version computes on a CPU too, but cannot even be loaded without the CUDA libraries that it links to.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

_ENTRY = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_CPU_PIN = re.compile(r"^torch==(?P<version>[^\s+;\\]+)\+cpu(?=[\s;\\]|$)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_CUDA_LIBRARY = "nvidia-"
_NOT_LOADED_ON_A_CPU = frozenset({"nvidia-cusolver", "nvidia-nvtx"})
"""Of the CUDA libraries that torch names: cuSOLVER is opened by the first solver on a GPU, NVTX is headers."""


@dataclass(frozen=True)
class CpuBuild:
    """A build of torch for CPUs as a lock pins it; `version` is without the `+cpu`."""

    version: str
    sha256: frozenset[str]

    @property
    def requirement(self) -> str:
        return f"torch=={self.version}+cpu"


def cpu_build(lock: str) -> CpuBuild | None:
    """The build for CPUs that the lock pins; None where it pins another one, or no torch."""
    for entry in _entries(lock):
        if pinned := _CPU_PIN.match(entry):
            return CpuBuild(pinned["version"], frozenset(_HASH.findall(entry)))
    return None


def pins_torch(lock: str) -> bool:
    """True where the lock pins a torch of any build."""
    return any(_name(entry) == "torch" for entry in _entries(lock))


@lru_cache(maxsize=16)  # of locks there are few, and each is asked for image by image
def with_pypi_build(lock: str, cuda_lock: str) -> str | None:
    """The lock with PyPI's build of the same torch, and the CUDA libraries without which that cannot be loaded.

    Both with the pins and hashes of `cuda_lock`. None where the lock pins no build for CPUs, or `cuda_lock` another
    version of torch.
    """
    build = cpu_build(lock)
    if build is None:
        return None
    theirs = {_name(entry): entry for entry in _entries(cuda_lock)}
    if not re.match(rf"torch=={re.escape(build.version)}(?=[\s;\\]|$)", theirs.get("torch", "")):
        return None
    kept = {_name(entry): entry for entry in _entries(lock)}
    libraries = {
        name: entry
        for name, entry in theirs.items()
        if name.startswith(_CUDA_LIBRARY) and name not in _NOT_LOADED_ON_A_CPU
    }
    merged = {**libraries, **kept, "torch": theirs["torch"]}
    return "".join(f"{entry.rstrip()}\n" for _, entry in sorted(merged.items()))


def added_entries(lock: str, changed: str) -> tuple[str, ...]:
    """The entries of `changed` that `lock` does not have."""
    known = {entry.rstrip() for entry in _entries(lock)}
    return tuple(entry for entry in _entries(changed) if entry.rstrip() not in known)


def named_entries(lock: str, names: Collection[str]) -> str:
    """The part of the lock that pins `names`."""
    return "".join(entry for entry in _entries(lock) if _name(entry) in names)


def from_address(lock: str, address: str) -> str:
    """The lock with its build of torch for CPUs taken from one address, under the same hashes."""
    entries = _entries(lock)
    return "".join(_CPU_PIN.sub(lambda pin: f"torch @ {address}", entry) for entry in entries)


def _entries(lock: str) -> list[str]:
    """The requirements of a lock, each with its hashes and the comments below it."""
    return [entry for entry in _ENTRY.split(lock) if _NAME.match(entry)]


def _name(entry: str) -> str:
    found = _NAME.match(entry)
    return re.sub(r"[-_.]+", "-", found.group()).lower() if found else ""
