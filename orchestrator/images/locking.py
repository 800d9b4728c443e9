"""Locks of images: every package, of every layer, pinned by version and by sha256, for one device and Python 3.11.

A child's lock repeats its parent's pins, so that the parent's layer is really shared and one lock is enough to make a
whole virtual environment. No index or host name is written: where packages come from is this machine's business.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from harness.contract import DeviceKind
from orchestrator.errors import BadImage
from orchestrator.host.files import write_atomically
from orchestrator.images.image import Image
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.uv import UvFailed, run_uv

PYTHON_VERSION = "3.11"
PLATFORM = "x86_64-manylinux_2_28"
REQUIREMENTS_NAME = "requirements.in"
OVERRIDES_NAME = "overrides.txt"
"""Versions that replace what a package itself asks for; the file says why, and where that was tried."""


def lock_image(image: Image, device: DeviceKind, *, upgrade: bool = False) -> Path:
    """Write `locks/<device>.txt` from `requirements.in`, and return its path. Unless `upgrade`, pins that fit stay.

    `requirements-<device>.in` and `overrides-<device>.txt`, where an image has them, stand in for the common files.

    Raises:
        BadImage: requirements.in is missing, the parent is not locked, or no set of versions satisfies it.
    """
    requirements = _for_device(image.folder / REQUIREMENTS_NAME, device)
    if not requirements.is_file():
        raise BadImage(
            f"image {image.name!r} has no {REQUIREMENTS_NAME}", hint=f"list its direct needs in {requirements}"
        )
    target = image.lock(device)
    with TemporaryDirectory() as scratch:
        resolved = Path(scratch) / target.name
        if target.is_file() and not upgrade:
            resolved.write_bytes(target.read_bytes())
        arguments = [
            "pip",
            "compile",
            str(requirements),
            "--output-file",
            str(resolved),
            "--quiet",
            "--generate-hashes",
        ]
        arguments += ["--python-version", PYTHON_VERSION, "--python-platform", PLATFORM]
        arguments += ["--no-header", "--no-annotate"]
        for path in _constraints(image, device):
            arguments += ["--constraints", str(path)]
        if (overrides := _for_device(image.folder / OVERRIDES_NAME, device)).is_file():
            arguments += ["--overrides", str(overrides)]
        try:
            run_uv([*arguments, *_lock_sources()], PackageSources.configured())
        except UvFailed as failure:
            raise BadImage(
                f"image {image.name!r} cannot be locked for {device.value}: {failure}",
                hint=f"mend {requirements}, or add the folder that holds the missing wheel to pip's find-links",
            ) from failure
        target.parent.mkdir(exist_ok=True)
        write_atomically(target, resolved.read_bytes())
    return target


def _for_device(common: Path, device: DeviceKind) -> Path:
    """The file of the same kind that is for this device alone, where there is one; else `common`."""
    own = common.with_stem(f"{common.stem}-{device.value}")
    return own if own.is_file() else common


def _constraints(image: Image, device: DeviceKind) -> list[Path]:
    """Per-device pins of the image and of those below it, and the lock of the nearest of those.

    The pins below count again: their `===`, unlike a `==`, tells a plain build from a local one (`+cpu`).
    """
    below = image.layers[:-1]
    folders = (image.folder, *(layer.folder for layer in reversed(below)))
    found = [path for folder in folders if (path := folder / f"constraints-{device.value}.txt").is_file()]
    if below:
        nearest = below[-1]
        if not nearest.lock(device).is_file():
            raise BadImage(
                f"{nearest.name!r}, on which image {image.name!r} builds, has no lock for {device.value}",
                hint=f"lock it first with `orchestrator images lock {nearest.name}`",
            )
        found.append(nearest.lock(device))
    return found


def _lock_sources() -> tuple[str, ...]:
    """Local mirrors are left out: a lock's hashes must not depend on which wheels one machine happens to keep."""
    configured = PackageSources.configured()
    return PackageSources(
        index=configured.index,
        extra_indexes=configured.remote_indexes,
        find_links=configured.find_links,
        trusted_hosts=configured.trusted_hosts,
    ).uv_arguments()
