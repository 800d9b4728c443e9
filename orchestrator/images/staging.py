"""Build contexts: for an environment its lock, its files and wheels of this machine alone; for a worker the harness.

What is staged is what the digests of `orchestrator.images.inputs` are of, so that no build can depend on anything else.
"""

import os
import re
import shutil
from pathlib import Path

from harness.contract import DeviceKind, digest_file, harness_folder
from orchestrator.errors import BadImage
from orchestrator.images.image import DESCRIPTION_NAME, Image, distribution_name
from orchestrator.images.inputs import brings_own_worker, copied_files, own_modules
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.torch_source import CONTAINER, installable
from orchestrator.images.vendor_wheels import find_vendor_wheels, vendor_wheels

LOCK_NAME = "lock.txt"
_HARNESS_SUFFIXES = {".py", ".yaml", ".toml", ".json"}
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_MAX_SECRET_BYTES = 500 * 1024
_CERTIFICATE_IN_BUILD = "/run/secrets/ca.crt"


def stage_environment(image: Image, device: DeviceKind, context: Path, sources: PackageSources) -> None:
    """Fill `context`, an empty folder, with what the image's Dockerfile may use.

    That is `lock.txt` for the device, `wheels/` (the files of local find-links folders that the lock names by hash;
    vendor's wheels are added to both), the files of the image's folder, and for a worker of its own `harness/`.

    Raises:
        BadImage: a lock is missing, or a vendor's wheel is not pinned yet or not in a find-links folder.
    """
    for name, path in copied_files(image).items():
        _copy(path, context / name)
    if brings_own_worker(image):
        copy_harness(context / harness_folder().name)
    lock = image.lock_text(device)
    pins = "".join(wheel.pin for wheel in vendor_wheels(image))
    text = installable(lock, sources.elsewhere, CONTAINER) if image.adds_torch(device) else lock
    (context / LOCK_NAME).write_text(text + pins, encoding="utf-8")
    wheels = context / "wheels"
    wheels.mkdir(exist_ok=True)
    for wheel in [*pinned_wheels(lock, sources), *find_vendor_wheels(image, sources)]:
        _link_or_copy(wheel, wheels / wheel.name)


def stage_worker(image: Image, context: Path) -> None:
    """Fill `context`, an empty folder, with what a worker is besides its environment."""
    _copy(image.description_path, context / DESCRIPTION_NAME)
    for name, path in own_modules(image).items():
        _copy(path, context / name)
    copy_harness(context / harness_folder().name)


def pinned_wheels(lock: str, sources: PackageSources) -> list[Path]:
    """Wheels in this machine's find-links folders whose name and sha256 the lock names."""
    names = {distribution_name(name) for name in _PIN.findall(lock)}
    hashes = set(_HASH.findall(lock))
    found = [
        wheel
        for folder in sources.wheel_folders
        for wheel in sorted(folder.glob("*.whl"))
        if distribution_name(wheel.name.partition("-")[0]) in names and digest_file(wheel) in hashes
    ]
    return list({wheel.name: wheel for wheel in found}.values())


def copy_harness(destination: Path) -> None:
    """Copy the harness's source files, and nothing that Python made of them."""
    source = harness_folder()
    for path in sorted(source.rglob("*")):
        if path.suffix in _HARNESS_SUFFIXES:
            _copy(path, destination / path.relative_to(source))


def pip_secrets(sources: PackageSources, folder: Path) -> dict[str, Path]:
    """Write what pip needs to know during a build, and must not stay in the image, to files in `folder`, by secret id.

    Raises:
        BadImage: the CA bundle is larger than a build secret may be.
    """
    configuration = folder / "pip.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(sources.pip_configuration(certificate=_CERTIFICATE_IN_BUILD), encoding="utf-8")
    if sources.certificate is None:
        return {"pip.conf": configuration}
    if sources.certificate.stat().st_size > _MAX_SECRET_BYTES:
        raise BadImage(
            f"the CA bundle {sources.certificate} is larger than the {_MAX_SECRET_BYTES // 1024} KiB of a build secret",
            hint="point SSL_CERT_FILE at a bundle that holds only the authorities needed",
        )
    return {"pip.conf": configuration, "ca.crt": sources.certificate}


def _copy(source: Path, target: Path) -> None:
    """Copy a file so that any user of a container can read it, whatever this user's umask is."""
    for folder in reversed(target.parents):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)
    shutil.copyfile(source, target)
    target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
