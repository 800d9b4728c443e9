"""Wheels that no package index has: `vendor-wheels.toml` pins them by version and sha256, whoever builds supplies them.

The makers' own download page is no index, and old files vanish from it. So the sha256 is filled in by whoever has the
files, in the checkout, and the files lie in a find-links folder of pip's configuration.
"""

import tomllib
from pathlib import Path

from pydantic import Field, ValidationError

from harness.contract import Frozen, digest_file
from orchestrator.errors import BadImage
from orchestrator.images.image import VENDOR_WHEELS_NAME, Image
from orchestrator.images.package_sources import PackageSources


class VendorWheel(Frozen):
    """`sha256` empty: nobody has said yet which file exactly it is, and nothing can be built."""

    project: str
    version: str
    sha256: str = Field(pattern=r"^([0-9a-f]{64})?$")

    @property
    def pin(self) -> str:
        return f"{self.project}=={self.version} --hash=sha256:{self.sha256}\n"


class _VendorWheels(Frozen):
    source: str
    wheels: tuple[VendorWheel, ...]


def vendor_wheels(image: Image) -> tuple[VendorWheel, ...]:
    """The wheels that the image needs beside its lock; empty for most images.

    Raises:
        BadImage: the file is not valid, or a sha256 is not filled in.
    """
    listed = _listed(image)
    if listed is None:
        return ()
    for wheel in listed.wheels:
        if not wheel.sha256:
            raise BadImage(
                f"image {image.name!r} needs {wheel.project} {wheel.version}, and its sha256 in"
                f" {image.folder / VENDOR_WHEELS_NAME} is empty",
                hint=f"get the wheel from {listed.source}, put it into a find-links folder of pip's configuration, and"
                " write its version and sha256 (`sha256sum FILE`) into that file",
            )
    return listed.wheels


def listed_wheels(image: Image) -> tuple[VendorWheel, ...]:
    """As `vendor_wheels`, with those of which nobody has said yet which file they are."""
    listed = _listed(image)
    return () if listed is None else listed.wheels


def _listed(image: Image) -> _VendorWheels | None:
    path = image.folder / VENDOR_WHEELS_NAME
    if not path.is_file():
        return None
    try:
        return _VendorWheels.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as invalid:
        raise BadImage(f"{path} is not valid: {invalid}", hint=f"see the README of image {image.name!r}") from invalid


def find_vendor_wheels(image: Image, sources: PackageSources) -> list[Path]:
    """The files of `vendor_wheels` in this machine's find-links folders.

    Raises:
        BadImage: one is not there, or a sha256 is not filled in.
    """
    wanted = vendor_wheels(image)
    if not wanted:
        return []
    present = {digest_file(path): path for folder in sources.wheel_folders for path in sorted(folder.glob("*.whl"))}
    for wheel in wanted:
        if wheel.sha256 not in present:
            raise BadImage(
                f"no find-links folder has the wheel of {wheel.project} {wheel.version} that image {image.name!r} pins",
                hint=f"put the file with sha256 {wheel.sha256} into one (`pip config list` shows find-links)",
            )
    return [present[wheel.sha256] for wheel in wanted]
