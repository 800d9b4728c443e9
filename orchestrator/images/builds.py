"""Builds an image: its environment (parent + lock), then a thin layer with the harness and `image.toml`.

The environment does not hold the harness, so a change of the harness rebuilds one small layer of each image.
"""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from harness.contract import DeviceKind, digest_file, digest_of, harness_digest
from orchestrator.errors import BadImage
from orchestrator.images.base_image import BASE_TAG, INPUTS_LABEL, base_inputs, build_base
from orchestrator.images.catalog import VENDOR_WHEELS_NAME, Image
from orchestrator.images.engine import Build, build, image_id, image_labels
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.staging import pip_secrets, stage_context
from orchestrator.images.vendor_wheels import vendor_wheels

if TYPE_CHECKING:
    from docker import DockerClient


_ENVIRONMENT = "environment"
_ENVIRONMENT_STAGE = re.compile(rf"^FROM\s+\S+\s+AS\s+{_ENVIRONMENT}\s*$", re.MULTILINE | re.IGNORECASE)


def image_tag(image: Image, device: DeviceKind) -> str:
    return f"llmcbench/{image.name}:{device.value}"


def environment_tag(image: Image, device: DeviceKind) -> str:
    return f"{image_tag(image, device)}-environment"


def environment_inputs(image: Image, device: DeviceKind) -> str:
    """Digest of every file that decides what is in the environment: Dockerfile, lock, and the parent's likewise."""
    decisive = {
        "dockerfile": _dockerfile_digest(image),
        "lock": image.lock_digest(device),
        "parent": _below_inputs(image, device),
    }
    wheels = image.folder / VENDOR_WHEELS_NAME
    return digest_of(decisive | ({"vendor_wheels": digest_file(wheels)} if wheels.is_file() else {}))


def _below_inputs(image: Image, device: DeviceKind) -> str:
    if image.description.foundation is not None:
        return image.description.foundation
    parent = image.parent
    return base_inputs(image.folder.parent) if parent is None else environment_inputs(parent, device)


def image_inputs(image: Image, device: DeviceKind) -> str:
    """Digest of everything that goes into the image: its environment, the harness, and `image.toml`."""
    return digest_of(
        {
            "environment": environment_inputs(image, device),
            "harness": harness_digest(),
            "description": digest_file(image.description_path),
        }
    )


def is_built(client: "DockerClient", image: Image, device: DeviceKind) -> bool:
    """True when the tagged image was made from the files as they are now."""
    labels = image_labels(client, image_tag(image, device))
    return labels is not None and labels.get(INPUTS_LABEL) == image_inputs(image, device)


def build_image(
    client: "DockerClient",
    image: Image,
    device: DeviceKind,
    note: Callable[[str], None],
    *,
    force: bool = False,
    record: bool = False,
) -> str:
    """Build the image, and what it stands on where that is missing or out of date; return its id.

    `record` goes to `build_base`.

    Raises:
        BadImage: a file is missing or a step failed.
        RuntimeUnavailable: there is no builder.
    """
    vendor_wheels(image)  # before anything is built for it
    _build_below(client, image, device, note, record=record)
    note(f"building image {image.name!r} for {device.value}")
    begin = time.monotonic()
    with TemporaryDirectory() as scratch:
        _build_targets(image, device, Path(scratch), force=force)
    note(f"image {image.name!r} for {device.value} is ready after {time.monotonic() - begin:.0f} s")
    return image_id(client, image_tag(image, device))


def _build_below(
    client: "DockerClient", image: Image, device: DeviceKind, note: Callable[[str], None], *, record: bool
) -> None:
    """Make what the image stands on: the base image, or its parent's environment and all below that."""
    if image.description.foundation is not None:
        return  # the builder pulls it
    if image.parent is None:
        build_base(client, image.folder.parent, note, record=record)
    elif _environment_is_built(client, image.parent, device):
        _build_below(client, image.parent, device, note, record=record)
    else:
        build_image(client, image.parent, device, note, record=record)


def _environment_is_built(client: "DockerClient", image: Image, device: DeviceKind) -> bool:
    labels = image_labels(client, environment_tag(image, device))
    return labels is not None and labels.get(INPUTS_LABEL) == environment_inputs(image, device)


def _build_targets(image: Image, device: DeviceKind, scratch: Path, *, force: bool) -> None:
    """Build both targets from one context; the second finds the first's steps in the builder's cache."""
    context, private = scratch / "context", scratch / "private"
    context.mkdir()
    private.mkdir()
    sources = PackageSources.configured()
    stage_context(image, device, context, sources)
    environment = Build(
        context=context,
        tag=environment_tag(image, device),
        target=_ENVIRONMENT if _has_environment(image) else None,
        build_arguments={"PARENT": _parent_tag(image, device), **dict(sources.proxies)},
        labels={INPUTS_LABEL: environment_inputs(image, device)},
        network="host" if sources.uses_loopback else "default",
        secrets=pip_secrets(sources, private),
        force=force,
    )
    build(environment)
    labels = {INPUTS_LABEL: image_inputs(image, device), "llmcbench.image": image.name}
    build(replace(environment, tag=image_tag(image, device), target=None, labels=labels, force=False))


def _parent_tag(image: Image, device: DeviceKind) -> str:
    if image.description.foundation is not None:
        return image.description.foundation
    return BASE_TAG if image.parent is None else environment_tag(image.parent, device)


def _has_environment(image: Image) -> bool:
    """False for a Dockerfile without that stage: all of the image is then its environment."""
    return _ENVIRONMENT_STAGE.search(image.dockerfile.read_text(encoding="utf-8")) is not None


def _dockerfile_digest(image: Image) -> str:
    if not image.dockerfile.is_file():
        raise BadImage(f"image {image.name!r} has no Dockerfile", hint=f"add {image.dockerfile}; see docs/images.md")
    return digest_file(image.dockerfile)
