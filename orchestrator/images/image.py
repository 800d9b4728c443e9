"""One folder of `images/`: what the image is, and the locks that decide what is in it."""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from harness.contract import (
    DeviceKind,
    ImageDescription,
    TaskDescription,
)
from harness.contract.tasks import describe_task, load_tasks
from orchestrator.errors import BadImage
from orchestrator.images.torch_build import pins_torch, with_pypi_build

DESCRIPTION_NAME = "image.toml"
JSON_DESCRIPTION_NAME = "image.json"
"""The same as JSON, for images that have no use for TOML."""
LOCKS_NAME = "locks"
VENDOR_WHEELS_NAME = "vendor-wheels.toml"
TORCH_NAME = "torch"
"""The image whose lock for CUDA pins PyPI's build of torch."""

_DISTRIBUTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Image:
    """One folder of `images/`. `parent` is the image that it builds on; None for one that builds on the base image.

    `shared` is the folder that has `base/`, what all images share; None where that lies beside the image's own. With
    `pypi_torch` its locks for a CPU have PyPI's build of torch in place of PyTorch's: another image, by every digest.
    """

    folder: Path
    description: ImageDescription
    parent: "Image | None" = None
    shared: Path | None = None
    pypi_torch: bool = False

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def description_path(self) -> Path:
        as_json = self.folder / JSON_DESCRIPTION_NAME
        return as_json if as_json.is_file() else self.folder / DESCRIPTION_NAME

    @property
    def dockerfile(self) -> Path:
        return self.folder / "Dockerfile"

    @property
    def project(self) -> Path:
        """The folder that has `base/`."""
        return self.folder.parent if self.shared is None else self.shared

    @property
    def container_only(self) -> str | None:
        """Why a virtual environment of its lock is not enough to run it; None where it is."""
        if self.description.container_only is not None:
            return self.description.container_only
        if self.description.prebuilt is not None and not self.description.command:
            return "it comes as a prebuilt image"
        if self.description.foundation is not None:
            return f"it is built on {self.description.foundation}"
        if (self.folder / VENDOR_WHEELS_NAME).is_file():
            return f"its lock is without the wheels of {VENDOR_WHEELS_NAME}"
        return None

    @property
    def layers(self) -> tuple["Image", ...]:
        """The images with a lock of their own that this one is made of, the lowest first. It has the lock of the last.

        An image without requirements inherits its parent's.
        """
        if self.parent is None:
            return (self,)
        return (*self.parent.layers, self) if self.has_requirements else self.parent.layers

    @property
    def has_requirements(self) -> bool:
        """True where it has a lock of its own, or is to have one."""
        return (self.folder / LOCKS_NAME).is_dir() or any(self.folder.glob("requirements*.in"))

    @property
    def requirements(self) -> frozenset[str]:
        """The distributions that it is built for: those that `requirements*.in`, its own and its parents', name."""
        below = self.parent.requirements if self.parent else frozenset()
        lines = [line for path in self.folder.glob("requirements*.in") for line in path.read_text("utf-8").splitlines()]
        found = (_DISTRIBUTION.match(line) for line in lines)
        return below | {distribution_name(one.group()) for one in found if one}

    @property
    def tasks(self) -> tuple[TaskDescription, ...]:
        """Those that the image describes itself, and those of the harness where it offers them.

        Raises:
            BadImage: a definition of the harness is not valid.
        """
        own = self.description.tasks
        if not self.description.harness_tasks:
            return own
        try:
            return (*own, *map(describe_task, load_tasks().values()))
        except ValueError as invalid:
            raise BadImage(str(invalid), hint="see docs/images.md") from invalid

    def lock(self, device: DeviceKind) -> Path:
        """The hash-pinned requirements for a device, `locks/cpu.txt` or `locks/cuda.txt`: its own, or inherited."""
        return self.layers[-1].folder / LOCKS_NAME / f"{device.value}.txt"

    def lock_text(self, device: DeviceKind) -> str:
        """What the lock lists, with PyPI's torch where the image is `pypi_torch`.

        Raises:
            BadImage: the image has no lock for this device, neither of its own nor inherited.
        """
        path = self.lock(device)
        if not path.is_file():
            raise BadImage(
                f"image {self.name!r} has no lock for {device.value}: {path} is missing",
                hint=f"add it with `orchestrator images lock {self.layers[-1].name}`",
            )
        text = path.read_bytes().decode("utf-8")
        changed = self._with_pypi_torch(text) if self.pypi_torch and device is DeviceKind.CPU else None
        return text if changed is None else changed

    def lock_digest(self, device: DeviceKind) -> str:
        """sha256 of `lock_text`, which says what is raised."""
        return hashlib.sha256(self.lock_text(device).encode("utf-8")).hexdigest()

    @property
    def stand_in(self) -> "Image | None":
        """The same with PyPI's build of torch, for where its own cannot be had.

        None where its lock for a CPU pins no build of PyTorch's own, or one of which no lock here has PyPI's.
        """
        if self.pypi_torch or not self.lock(DeviceKind.CPU).is_file():
            return None
        if self._with_pypi_torch(self.lock_text(DeviceKind.CPU)) is None:
            return None
        return self._as_stand_in()

    def adds_torch(self, device: DeviceKind) -> bool:
        """True for the layer that brings torch: its lock pins one, and its parent's does not."""
        if not pins_torch(self.lock_text(device)):
            return False
        return self.parent is None or not pins_torch(self.parent.lock_text(device))

    def builds(self, device: DeviceKind) -> tuple["Image", ...]:
        """What may be prepared for the image on a device: itself, then what stands in for it."""
        instead = self.stand_in if device is DeviceKind.CPU else None
        return (self,) if instead is None else (self, instead)

    def _as_stand_in(self) -> "Image":
        return replace(self, pypi_torch=True, parent=None if self.parent is None else self.parent._as_stand_in())

    def _with_pypi_torch(self, lock: str) -> str | None:
        path = torch_cuda_lock(self.project)
        return with_pypi_build(lock, path.read_text(encoding="utf-8")) if path.is_file() else None


def torch_cuda_lock(images: Path) -> Path:
    """The lock that pins PyPI's build of torch, in the project's folder of images."""
    return images / TORCH_NAME / LOCKS_NAME / f"{DeviceKind.CUDA.value}.txt"


def distribution_name(written: str) -> str:
    """The name of a Python distribution as package indexes write it, however it is written."""
    return re.sub(r"[-_.]+", "-", written).lower()
