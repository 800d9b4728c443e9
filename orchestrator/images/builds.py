"""Builds images: their environments, and on top of each a thin layer with the worker.

The environment does not hold the harness, so a change of the harness rebuilds one small layer of each image.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from harness.contract import DeviceKind
from orchestrator.host.locks import hold, shared_lock
from orchestrator.images.base_image import INPUTS_LABEL, PACKAGES_LABEL, build_base
from orchestrator.images.engine import Build, build, image_labels
from orchestrator.images.image import Image
from orchestrator.images.inputs import (
    ENVIRONMENT_STAGE,
    base_tag,
    brings_own_worker,
    build_digest,
    container_identity,
    environment_digest,
    environment_dockerfile,
    environment_owner,
    environment_tag,
    image_tag,
    stages,
    worker_dockerfile,
)
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.prebuilt import find_prebuilt, have_prebuilt
from orchestrator.images.staging import pip_secrets, stage_environment, stage_worker
from orchestrator.images.torch_build import pins_torch
from orchestrator.images.torch_source import CONTAINER, Decision, choose_build
from orchestrator.images.vendor_wheels import vendor_wheels
from orchestrator.installation import installed_version
from orchestrator.stages import ImageIdentity

if TYPE_CHECKING:
    from docker import DockerClient

Note = Callable[[str], None]
_LICENSE = "Apache-2.0"


def find_built(client: "DockerClient", image: Image, device: DeviceKind) -> tuple[Image, ImageIdentity] | None:
    """The image, or what stands in for it, that was built from the files as they are now; None where neither was.

    A prebuilt image is what its digest says, once the engine has it.
    """
    for one in image.builds(device):
        if (identity := _built_identity(client, one, device)) is not None:
            return one, identity
    return None


def _built_identity(client: "DockerClient", image: Image, device: DeviceKind) -> ImageIdentity | None:
    if (prebuilt := image.description.prebuilt) is not None:
        return None if find_prebuilt(client, prebuilt) is None else ImageIdentity(f"docker:prebuilt:{prebuilt}")
    labels = image_labels(client, image_tag(image, device))
    if labels is None or labels.get(INPUTS_LABEL) != build_digest(image, device):
        return None
    return container_identity(image, device, labels.get(PACKAGES_LABEL))


@contextmanager
def building(note: Note) -> Iterator[None]:
    """One build at a time on this host: two would make the same layers twice."""
    with hold(shared_lock("building.lock"), on_wait=lambda: note("waits for another build on this machine")):
        yield


def build_image(
    client: "DockerClient", image: Image, device: DeviceKind, note: Note, *, force: bool = False, record: bool = False
) -> Image:
    """Build the image, and what it stands on where that is missing or out of date.

    Returns what was built: the image, or the one with PyPI's torch where no package source has the torch of its lock.
    `record` goes to `build_base`.

    Raises:
        BadImage: a file is missing, a step failed, or no source has torch.
        RuntimeUnavailable: there is no builder.
    """
    if image.description.prebuilt is not None:
        have_prebuilt(client, image, image.description.prebuilt, note)
        return image
    vendor_wheels(image)  # before anything is built for it
    with building(note):
        if not force and not record and (found := find_built(client, image, device)) is not None:
            return found[0]  # by another orchestrator, meanwhile
        begin = time.monotonic()
        image, torch = _choose(client, image, device, force=force)
        if brings_own_worker(image):
            _build_below(client, image, device, note, torch, record=record)
            _announce(image, device, note, torch)
            note(f"building image {image.name!r} for {device.value}")
            _build_own(
                client,
                image,
                device,
                image_tag(image, device),
                build_digest(image, device),
                note,
                target=None,
                force=force,
            )
        else:
            _build_environment(client, image, device, note, torch, force=force, record=record)
            note(f"building image {image.name!r} for {device.value}")
            _build_worker(client, image, device, note, force=force)
        note(f"image {image.name!r} for {device.value} is ready after {time.monotonic() - begin:.0f} s")
        return image


def _choose(client: "DockerClient", image: Image, device: DeviceKind, *, force: bool) -> tuple[Image, Decision]:
    """The image or what stands in for it: that whose torch a layer here has already, else as the sources decide."""
    for one in () if force else image.builds(device):
        layer: Image | None = environment_owner(one)
        while layer is not None:
            if pins_torch(layer.lock_text(device)) and _has_environment(client, layer, device):
                return one, Decision()
            layer = None if layer.parent is None else environment_owner(layer.parent)
    return choose_build(image, device, PackageSources.configured().elsewhere, CONTAINER)


def _announce(image: Image, device: DeviceKind, note: Note, torch: Decision) -> None:
    if torch.note and image.adds_torch(device):
        note(torch.note)


def _has_environment(client: "DockerClient", owner: Image, device: DeviceKind) -> bool:
    labels = image_labels(client, environment_tag(owner, device))
    return labels is not None and labels.get(INPUTS_LABEL) == environment_digest(owner, device)


def _build_environment(
    client: "DockerClient",
    image: Image,
    device: DeviceKind,
    note: Note,
    torch: Decision,
    *,
    force: bool = False,
    record: bool = False,
) -> None:
    owner = environment_owner(image)
    _build_below(client, owner, device, note, torch, record=record)
    tag, inputs = environment_tag(owner, device), environment_digest(owner, device)
    rebuild = force and owner is image
    if not rebuild and _has_environment(client, owner, device):
        return
    _announce(owner, device, note, torch)
    note(f"building the environment of image {owner.name!r} for {device.value}")
    target = ENVIRONMENT_STAGE if ENVIRONMENT_STAGE in stages(owner) else None
    _build_own(client, owner, device, tag, inputs, note, target=target, force=rebuild)


def _build_below(
    client: "DockerClient", image: Image, device: DeviceKind, note: Note, torch: Decision, *, record: bool
) -> None:
    """Make what the image stands on: the base image, or its parent's environment and all below that."""
    if image.description.foundation is not None:
        return  # the builder pulls it
    if image.parent is None:
        build_base(client, image.project, note, record=record)
    else:
        _build_environment(client, image.parent, device, note, torch, record=record)


def _build_own(
    client: "DockerClient",
    image: Image,
    device: DeviceKind,
    tag: str,
    inputs: str,
    note: Note,
    *,
    target: str | None,
    force: bool,
) -> None:
    """Build from the image's own Dockerfile, or the one for those that have none."""
    with TemporaryDirectory() as scratch:
        context, private = Path(scratch) / "context", Path(scratch) / "private"
        context.mkdir()
        private.mkdir()
        sources = PackageSources.configured()
        stage_environment(image, device, context, sources)
        order = Build(
            context=context,
            dockerfile=environment_dockerfile(image),
            tag=tag,
            target=target,
            build_arguments={"PARENT": _parent_tag(image, device), **dict(sources.proxies)},
            labels=_labels(image, inputs),
            network="host" if sources.uses_loopback else "default",
            secrets=pip_secrets(sources, private),
            force=force,
            say=note,
        )
        build(client, order)


def _build_worker(client: "DockerClient", image: Image, device: DeviceKind, note: Note, *, force: bool) -> None:
    with TemporaryDirectory() as scratch:
        context = Path(scratch) / "context"
        context.mkdir(mode=0o755)
        stage_worker(image, context)
        order = Build(
            context=context,
            dockerfile=worker_dockerfile(image),
            tag=image_tag(image, device),
            build_arguments={"ENVIRONMENT": environment_tag(image, device)},
            labels=_labels(image, build_digest(image, device)),
            force=force,
            say=note,
        )
        build(client, order)


def _parent_tag(image: Image, device: DeviceKind) -> str:
    if image.description.foundation is not None:
        return image.description.foundation
    return base_tag(image.project) if image.parent is None else environment_tag(image.parent, device)


def _labels(image: Image, inputs: str) -> dict[str, str]:
    """Labels by which the images of this project are found, and those of the OCI image specification (annotations)."""
    said = {
        "title": image.name,
        "description": image.description.summary,
        "version": installed_version(),
        "licenses": _LICENSE,
        "revision": _commit(image.folder),
    }
    return {INPUTS_LABEL: inputs} | {f"org.opencontainers.image.{name}": text for name, text in said.items() if text}


def _commit(folder: Path) -> str:
    """The git commit of the folder, with `-dirty` where it was changed since; empty where git does not know it."""
    known, commit, changes = (_git(folder, *words.split()) for words in ("ls-files", "rev-parse HEAD", "status -s ."))
    return "" if not known else f"{commit}-dirty" if changes else commit


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; empty where there is no git, or no repository."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    except OSError:
        return ""
