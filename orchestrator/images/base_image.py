"""The base image: a bare Debian 12 from a registry, or bootstrapped here where none is reachable, plus Python 3.11."""

import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from harness.contract import digest_file, digest_of
from orchestrator.errors import BadImage
from orchestrator.images.engine import Build, build, builder_command, image_id, image_labels, run_command
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.record import ImageRecord, today

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


def base_inputs(images: Path) -> str:
    """Digest of everything in the project that decides what is in the base image."""
    return digest_of({name: digest_file(images / BASE_NAME / name) for name in _INPUT_NAMES})


def build_base(
    client: "DockerClient", images: Path, note: Callable[[str], None], *, force: bool = False
) -> ImageRecord:
    """Make the base image unless it is there with the same inputs, and say how it was made.

    Raises:
        BadImage: Debian can neither be pulled nor bootstrapped, or a step of the Dockerfile fails.
    """
    labels = image_labels(client, BASE_TAG)
    if force or labels is None or labels.get(INPUTS_LABEL) != base_inputs(images):
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
    return ImageRecord(
        name=BASE_NAME,
        parent=labels.get(ORIGIN_LABEL, "unknown"),
        dockerfile_sha256=digest_file(images / BASE_NAME / "Dockerfile"),
        packages_sha256=_packages_digest(client),
        build_arguments={"PARENT": DEBIAN_TAG},
        id=image_id(client, BASE_TAG),
        recorded=today(),
    )


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


def _packages_digest(client: "DockerClient") -> str:
    """sha256 over the names and versions of the Debian packages in the base image."""
    command = ["dpkg-query", "--show", "--showformat", "${Package}=${Version}\\n"]
    listing = client.containers.run(BASE_TAG, command, remove=True, network_mode="none")
    return hashlib.sha256(b"\n".join(sorted(listing.splitlines()))).hexdigest()
