"""The base image: a bare Debian 12 from a registry, or bootstrapped here where none is reachable, plus Python 3.11.

`images/base/lock.json` keeps what no file of the project decides: where that Debian came from, and its packages.
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from harness.contract import Frozen, digest_file, digest_of
from orchestrator.errors import BadImage
from orchestrator.host.files import write_atomically
from orchestrator.images.engine import Build, build, builder_command, image_labels, run_command
from orchestrator.images.package_sources import PackageSources

if TYPE_CHECKING:
    from docker import DockerClient

BASE_NAME = "base"
BASE_TAG = "llmcbench/base:latest"
DEBIAN_TAG = "llmcbench/debian:bookworm"
DEBIAN_REFERENCE = "debian:bookworm-slim"
DEBIAN_SUITE = "bookworm"
INPUTS_LABEL = "llmcbench.inputs"
ORIGIN_LABEL = "llmcbench.origin"
_INPUT_NAMES = ("Dockerfile", "install-lock")
_PULL_SECONDS = 120
_RECORD_NAME = "lock.json"
_SHOWN = 5


class BaseRecord(Frozen):
    """A base image as it was built. `packages` maps each Debian package to its version."""

    version: Literal[1] = 1
    origin: str
    packages: dict[str, str]
    recorded: str


def read_record(images: Path) -> BaseRecord | None:
    """The committed record; None where there is none.

    Raises:
        BadImage: the file is not a valid record.
    """
    path = images / BASE_NAME / _RECORD_NAME
    if not path.is_file():
        return None
    try:
        return BaseRecord.model_validate_json(path.read_bytes())
    except ValidationError as invalid:
        raise BadImage(f"{path} is not a valid record: {invalid}", hint="write it again with --record") from invalid


def write_record(images: Path, built: BaseRecord) -> None:
    write_atomically(images / BASE_NAME / _RECORD_NAME, built.model_dump_json(indent=1) + "\n")


def differences(recorded: BaseRecord, built: BaseRecord) -> tuple[str, ...]:
    """What of `built` is not as recorded, in words: its origin, and the packages that came, went or changed."""
    was, now = recorded.packages, built.packages
    origin = () if recorded.origin == built.origin else (f"from {built.origin} instead of {recorded.origin}",)
    return origin + tuple(
        f"{name} {now.get(name, 'is missing')} instead of {was.get(name, 'none')}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    )


def base_inputs(images: Path) -> str:
    """Digest of everything in the project that decides what is in the base image."""
    return digest_of({name: digest_file(images / BASE_NAME / name) for name in _INPUT_NAMES})


def build_base(
    client: "DockerClient", images: Path, note: Callable[[str], None], *, force: bool = False, record: bool = False
) -> None:
    """Make the base image unless it is there with the same inputs.

    `record` writes what it is made of to its lock; otherwise what differs from that is told through `note`.

    Raises:
        BadImage: Debian can neither be pulled nor bootstrapped, or a step of the Dockerfile fails.
    """
    labels = image_labels(client, BASE_TAG) or {}
    if force or labels.get(INPUTS_LABEL) != base_inputs(images):
        origin = _debian(client, note, force=force)
        note(f"building the base image on {origin}")
        with TemporaryDirectory() as scratch:
            for name in _INPUT_NAMES:
                shutil.copy(images / BASE_NAME / name, scratch)
            sources = PackageSources.configured()
            order = Build(
                context=Path(scratch),
                tag=BASE_TAG,
                build_arguments={"PARENT": DEBIAN_TAG, **dict(sources.proxies)},
                labels={INPUTS_LABEL: base_inputs(images), ORIGIN_LABEL: origin},
                network="host" if sources.uses_loopback else "default",
                force=force,
            )
            build(order)
        labels = image_labels(client, BASE_TAG) or {}
    built = BaseRecord(
        origin=labels.get(ORIGIN_LABEL, "unknown"),
        packages=_packages(client),
        recorded=datetime.now(UTC).date().isoformat(),
    )
    recorded = read_record(images)
    if record:
        write_record(images, built)
    elif recorded is not None and (found := differences(recorded, built)):
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        note(f"the base image differs from {BASE_NAME}/{_RECORD_NAME}: {'; '.join(found[:_SHOWN])}{more}")


def _debian(client: "DockerClient", note: Callable[[str], None], *, force: bool) -> str:
    labels = image_labels(client, DEBIAN_TAG)
    if labels is not None and not force:
        return labels.get(ORIGIN_LABEL) or _registry_origin(client)
    note(f"pulling {DEBIAN_REFERENCE}")
    if _pull():
        run_command([builder_command(), "tag", DEBIAN_REFERENCE, DEBIAN_TAG])
        return _registry_origin(client)
    note(f"no registry is reachable; bootstrapping Debian {DEBIAN_SUITE} with debootstrap")
    return _bootstrap()


def _pull() -> bool:
    try:
        return (
            subprocess.run(  # noqa: S603  a fixed command
                [builder_command(), "pull", "--quiet", DEBIAN_REFERENCE],
                capture_output=True,
                check=False,
                timeout=_PULL_SECONDS,
            ).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False


def _registry_origin(client: "DockerClient") -> str:
    digests = client.images.get(DEBIAN_TAG).attrs.get("RepoDigests") or [DEBIAN_REFERENCE]
    return f"registry {digests[0]}"


def _bootstrap() -> str:
    """Make a minimal Debian with debootstrap and import it as one layer."""
    tool = shutil.which("debootstrap") or shutil.which("debootstrap", path="/usr/sbin:/sbin")
    if tool is None or os.geteuid() != 0:
        raise BadImage(
            "Debian cannot be pulled from a registry, and debootstrap "
            + ("is not installed" if tool is None else "needs the root user"),
            hint=f"give the engine access to a registry, or tag any Debian 12 image as {DEBIAN_TAG}",
        )
    origin = f"debootstrap {DEBIAN_SUITE}"
    with TemporaryDirectory() as scratch:
        root, archive = Path(scratch) / "root", Path(scratch) / f"{secrets.token_hex(4)}.tar"
        steps = [
            [tool, "--variant=minbase", DEBIAN_SUITE, str(root)],
            [
                "tar",
                "--create",
                "--file",
                str(archive),
                "--directory",
                str(root),
                "--exclude=./var/cache/apt/*.deb",
                ".",
            ],
            [builder_command(), "import", "--change", f'LABEL {ORIGIN_LABEL}="{origin}"', str(archive), DEBIAN_TAG],
        ]
        for step in steps:
            done = run_command(step)
            if done.returncode != 0:
                tail = "\n".join(done.stdout.strip().splitlines()[-8:])
                raise BadImage(f"{Path(step[0]).name} failed:\n{tail}", hint="Debian's mirror must be reachable")
    return origin


def _packages(client: "DockerClient") -> dict[str, str]:
    command = ["dpkg-query", "--show", "--showformat", "${Package}=${Version}\\n"]
    listing = client.containers.run(BASE_TAG, command, remove=True, network_mode="none").decode("ascii")
    return dict(line.split("=", 1) for line in sorted(listing.splitlines()))
