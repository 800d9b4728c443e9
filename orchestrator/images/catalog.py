"""The images folder: what each image is, and the files that decide what is in it."""

import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from harness.contract import (
    BackendDescription,
    DeviceKind,
    ImageDescription,
    MethodDescription,
    Operation,
    TaskDescription,
)
from harness.contract.tasks import describe_task, load_tasks
from orchestrator.errors import BadImage

DESCRIPTION_NAME = "image.toml"
LOCKS_NAME = "locks"
VENDOR_WHEELS_NAME = "vendor-wheels.toml"


@dataclass(frozen=True)
class Image:
    """One folder of `images/`. `parent` is the image that it builds on; None for one that builds on the base image.

    `shared` is the folder that has `base/`, what all images share; None where that lies beside the image's own.
    """

    folder: Path
    description: ImageDescription
    parent: "Image | None" = None
    shared: Path | None = None

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def description_path(self) -> Path:
        return self.folder / DESCRIPTION_NAME

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

    def lock_digest(self, device: DeviceKind) -> str:
        """sha256 of the lock.

        Raises:
            BadImage: the image has no lock for this device, neither of its own nor inherited.
        """
        path = self.lock(device)
        if not path.is_file():
            raise BadImage(
                f"image {self.name!r} has no lock for {device.value}: {path} is missing",
                hint=f"add it with `orchestrator images lock {self.layers[-1].name}`",
            )
        return hashlib.sha256(path.read_bytes()).hexdigest()


class ImageCatalog:
    """All images of a project folder, indexed by what they offer.

    Raises:
        BadImage: a folder has an invalid `image.toml`, two images offer the same name, or a parent does not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if not root.is_dir():
            raise BadImage(f"no images folder at {root}", hint="run from a checkout of the project")
        self.images = _with_parents([_load(path) for path in sorted(root.glob(f"*/{DESCRIPTION_NAME}"))])

    def offering(self, operation: Operation) -> tuple[Image, ...]:
        return tuple(image for image in self.images.values() if operation in image.description.operations)

    def only(self, operation: Operation) -> Image:
        """The one image that performs `operation`.

        Raises:
            BadImage: none or several do.
        """
        found = self.offering(operation)
        if len(found) != 1:
            names = ", ".join(image.name for image in found) or "none"
            raise BadImage(f"exactly one image must offer {operation.value}; these do: {names}", hint="mend images/")
        return found[0]

    def minimum_driver(self, image: Image) -> str | None:
        """The oldest NVIDIA driver that an image's packages run on: its own, or the layer's that it builds on."""
        return image.description.minimum_driver or (self.minimum_driver(image.parent) if image.parent else None)

    @cached_property
    def methods(self) -> dict[str, tuple[Image, MethodDescription]]:
        return _index((image, offer) for image in self.images.values() for offer in image.description.methods)

    @cached_property
    def backends(self) -> dict[str, tuple[Image, BackendDescription]]:
        return _index((image, offer) for image in self.images.values() for offer in image.description.backends)

    @cached_property
    def tasks(self) -> dict[str, tuple[Image, TaskDescription]]:
        return _index((image, offer) for image in self.images.values() for offer in image.tasks)

    def full_name(self, backend: str) -> str:
        """The name of a backend that a short form stands for, or which it is itself but for its case."""
        name = backend.lower()
        return next((full for full, (_, one) in self.backends.items() if name in one.aliases), name)


Offer = TypeVar("Offer", MethodDescription, BackendDescription, TaskDescription)


def _index(offers: Iterable[tuple[Image, Offer]]) -> dict[str, tuple[Image, Offer]]:
    index: dict[str, tuple[Image, Offer]] = {}
    for image, offer in offers:
        if offer.name in index:
            first = index[offer.name][0].name
            raise BadImage(
                f"images {first!r} and {image.name!r} both offer {offer.name!r}",
                hint="rename one of them in its image.toml",
            )
        index[offer.name] = (image, offer)
    return index


def _load(path: Path) -> Image:
    try:
        description = ImageDescription.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as invalid:
        raise BadImage(f"{path} is not a valid image description: {invalid}", hint="see docs/images.md") from invalid
    if description.name != path.parent.name:
        raise BadImage(f"{path} names itself {description.name!r}", hint="an image is called like its folder")
    return Image(path.parent, description)


def _with_parents(images: Iterable[Image]) -> dict[str, Image]:
    """The images by name, each with the one that it builds on."""
    loose = {image.name: image for image in images}
    linked: dict[str, Image] = {}

    def link(image: Image, above: tuple[str, ...]) -> Image:
        if image.name in linked:
            return linked[image.name]
        name = image.description.parent
        if name in (*above, image.name):
            raise BadImage(f"image {image.name!r} builds on itself", hint=f"mend `parent` in {image.description_path}")
        if name is not None and name not in loose:
            raise BadImage(
                f"image {image.name!r} builds on {name!r}, which does not exist",
                hint=f"add {image.folder.parent / name}, or mend `parent` in {image.description_path}",
            )
        parent = None if name is None else link(loose[name], (*above, image.name))
        linked[image.name] = replace(image, parent=parent)
        return linked[image.name]

    for image in loose.values():
        link(image, ())
    return {name: linked[name] for name in loose}
