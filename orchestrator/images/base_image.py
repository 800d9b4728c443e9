"""The base image: a bare Debian 12 from a registry, or bootstrapped here where none is reachable, plus Python 3.11.

`images/base/lock.json` keeps what no file of the project decides: where that Debian came from, and its packages.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from harness.contract import Frozen, digest_of
from orchestrator.errors import BadImage
from orchestrator.host.files import write_atomically
from orchestrator.images.engine import Build, build, builder_command, image_labels, run_command
from orchestrator.images.inputs import BASE_NAME, base_digest, base_tag
from orchestrator.images.package_sources import PackageSources

if TYPE_CHECKING:
    from docker import DockerClient

DEBIAN_TAG = "llmcbench/debian:bookworm"
DEBIAN_REFERENCE = "debian:bookworm-slim"
DEBIAN_SUITE = "bookworm"
INPUTS_LABEL = "llmcbench.inputs"
ORIGIN_LABEL = "llmcbench.origin"
PACKAGES_LABEL = "llmcbench.packages"
_REGISTRY = "registry "
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


def build_base(
    client: "DockerClient", images: Path, note: Callable[[str], None], *, force: bool = False, record: bool = False
) -> None:
    """Make the base image unless it is there with the same inputs. Whoever calls holds `building`.

    `record` writes what it is made of to its lock; otherwise what differs from that is told through `note`.

    Raises:
        BadImage: Debian can neither be pulled nor bootstrapped, or a step of the Dockerfile fails.
    """
    tag, recorded = base_tag(images), read_record(images)
    labels = image_labels(client, tag) or {}
    if force or labels.get(INPUTS_LABEL) != base_digest(images) or PACKAGES_LABEL not in labels:
        labels = _build(client, images, recorded, note, force=force)
    elif not record:
        return
    built = BaseRecord(
        origin=labels.get(ORIGIN_LABEL, "unknown"),
        packages=_packages(client, tag),
        recorded=datetime.now(UTC).date().isoformat(),
    )
    if record:
        write_record(images, built)
    elif recorded is not None and (found := differences(recorded, built)):
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        note(f"the base image differs from {BASE_NAME}/{_RECORD_NAME}: {'; '.join(found[:_SHOWN])}{more}")


def _build(
    client: "DockerClient", images: Path, recorded: BaseRecord | None, note: Callable[[str], None], *, force: bool
) -> dict[str, str]:
    """Build and label the base image; returns the labels."""
    origin = _debian(client, images, recorded, note, force=force)
    note(f"building the base image on {origin}")
    sources = PackageSources.configured()
    order = Build(
        context=images / BASE_NAME,
        dockerfile=images / BASE_NAME / "Dockerfile",
        tag=base_tag(images),
        build_arguments={"PARENT": DEBIAN_TAG, **dict(sources.proxies)},
        labels={INPUTS_LABEL: base_digest(images), ORIGIN_LABEL: origin},
        network="host" if sources.uses_loopback else "default",
        force=force,
        say=note,
    )
    build(client, order)
    packages = digest_of(_packages(client, order.tag))
    labels = {**order.labels, PACKAGES_LABEL: packages}  # what is built on it inherits the label
    build(client, replace(order, labels=labels, force=False))
    return labels


def _debian(
    client: "DockerClient", images: Path, recorded: BaseRecord | None, note: Callable[[str], None], *, force: bool
) -> str:
    """Have a bare Debian as `DEBIAN_TAG`; returns where it came from."""
    labels = image_labels(client, DEBIAN_TAG)
    if labels is not None and not force:
        return labels.get(ORIGIN_LABEL) or _registry_origin(client)
    reference = DEBIAN_REFERENCE
    if recorded is not None and recorded.origin.startswith(_REGISTRY) and "@sha256:" in recorded.origin:
        reference = recorded.origin.removeprefix(_REGISTRY)
    note(f"pulling {reference}")
    if _pull(reference):
        run_command([builder_command(), "tag", reference, DEBIAN_TAG])
        return _registry_origin(client)
    note(f"no registry is reachable; bootstrapping Debian {DEBIAN_SUITE} with debootstrap")
    return _bootstrap(images, note)


def _pull(reference: str) -> bool:
    try:
        return (
            subprocess.run(  # noqa: S603  a fixed command
                [builder_command(), "pull", "--quiet", reference],
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
    return f"{_REGISTRY}{digests[0]}"


def _bootstrap(images: Path, note: Callable[[str], None]) -> str:
    tool = shutil.which("debootstrap") or shutil.which("debootstrap", path="/usr/sbin:/sbin")
    if tool is None or os.geteuid() != 0:
        raise BadImage(
            "Debian cannot be pulled from a registry, and debootstrap "
            + ("is not installed" if tool is None else "needs the root user"),
            hint=f"give the engine access to a registry, or tag any Debian 12 image as {DEBIAN_TAG}",
        )
    origin = f"debootstrap {DEBIAN_SUITE}"
    script = str(images / BASE_NAME / "bootstrap.sh")
    label = f'{ORIGIN_LABEL}="{origin}"'
    done = run_command(["/bin/sh", script, DEBIAN_SUITE, DEBIAN_TAG, label, builder_command()], note)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.strip().splitlines()[-8:])
        raise BadImage(f"making Debian failed:\n{tail}", hint="Debian's mirror must be reachable")
    return origin


def _packages(client: "DockerClient", tag: str) -> dict[str, str]:
    command = ["dpkg-query", "--show", "--showformat", "${Package}=${Version}\\n"]
    listing = client.containers.run(tag, command, remove=True, network_mode="none").decode("ascii")
    return dict(line.split("=", 1) for line in sorted(listing.splitlines()))
