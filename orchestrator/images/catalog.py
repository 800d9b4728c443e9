"""All images that can be used here, found in their folders and indexed by what they offer."""

import json
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from harness.contract import (
    BackendDescription,
    DatasetDescription,
    ImageDescription,
    MethodDescription,
    Operation,
    TaskDescription,
)
from orchestrator.documents import why_invalid
from orchestrator.errors import BadImage
from orchestrator.images.image import DESCRIPTION_NAME, JSON_DESCRIPTION_NAME, Image


class ImageCatalog:
    """All images of the project's folder `root` and of `others`, indexed by what they offer.

    Each of `others` holds folders of images, as `root` does, or is itself the folder of one. What they build on may be
    in `root`.

    Raises:
        BadImage: a folder has no image or an invalid `image.toml`, two images have or offer the same name, or a parent
            does not exist.
    """

    def __init__(self, root: Path, *others: Path) -> None:
        self.root = root
        self.others = others
        if not root.is_dir():
            raise BadImage(f"no images folder at {root}", hint="name the folder that holds the images")
        images = [_load(path) for path in _described(root.glob("*"))]
        images += [_load(path, shared=root) for other in others for path in _descriptions(other)]
        self.images = _with_parents(_distinct(images))

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

    @cached_property
    def datasets(self) -> dict[str, DatasetDescription]:
        """Every data set that an image knows, by its name."""
        return {one.name: one for image in self.images.values() for one in image.description.datasets}

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


def _described(folders: Iterable[Path]) -> list[Path]:
    """The descriptions in those of the folders that have one."""
    names = (DESCRIPTION_NAME, JSON_DESCRIPTION_NAME)
    return [folder / name for folder in sorted(folders) for name in names if (folder / name).is_file()]


def _descriptions(folder: Path) -> list[Path]:
    found = _described([folder]) or _described(folder.glob("*"))
    if not found:
        raise BadImage(
            f"{folder} holds no image: no {DESCRIPTION_NAME} in it or one folder below",
            hint="name the folder of an image, or the one around several; `orchestrator images new NAME` makes one",
        )
    return [path.absolute() for path in found]


def _distinct(images: Iterable[Image]) -> Iterator[Image]:
    seen: dict[str, Image] = {}
    for image in images:
        first = seen.setdefault(image.name, image)
        if first.folder != image.folder:
            raise BadImage(
                f"two images are called {image.name!r}: {first.folder} and {image.folder}",
                hint="rename the folder of one, and the name in its image.toml",
            )
        if first is image:
            yield image


def _load(path: Path, *, shared: Path | None = None) -> Image:
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.name == JSON_DESCRIPTION_NAME else tomllib.loads(text)
        description = ImageDescription.model_validate(document)
    except ValidationError as invalid:
        why = why_invalid(invalid, json.dumps(document, default=str))
        raise BadImage(f"{path} is not a valid image description: {why}", hint="see docs/images.md") from invalid
    except (OSError, ValueError) as invalid:
        raise BadImage(f"{path} cannot be read: {invalid}", hint="see docs/images.md") from invalid
    if description.name != path.parent.name:
        raise BadImage(f"{path} names itself {description.name!r}", hint="an image is called like its folder")
    return Image(path.parent, description, shared=shared)


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
