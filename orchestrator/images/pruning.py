"""Which of this project's images an engine still needs: those that a checkout was last prepared with.

Each checkout keeps a record of its images' tags in a folder of this host. What no record of a checkout that still
exists names is unused. Images are ours by label and tag; steps of the builder's cache by what they do.
"""

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.contract import DeviceKind, Frozen
from orchestrator.host.files import write_atomically
from orchestrator.host.locks import hold, shared_folder, shared_lock
from orchestrator.images.base_image import DEBIAN_TAG, INPUTS_LABEL, ORIGIN_LABEL
from orchestrator.images.image import Image
from orchestrator.images.inputs import BASE_NAME, all_tags

if TYPE_CHECKING:
    from docker import DockerClient

_OURS = "llmcbench/"
_CACHED_STEPS = ("install-lock", "/opt/llmcbench", "/opt/venv")
_RECORDS_NAME = "images"


class _Checkout(Frozen):
    """`tags`: what each image of the folder was last prepared with, by its name and device."""

    folder: str
    tags: dict[str, tuple[str, ...]] = {}


@dataclass(frozen=True)
class Unused:
    """`size_bytes` is what nothing else shares now: removing several can free more."""

    what: str
    size_bytes: int


def name_images(image: Image, device: DeviceKind) -> None:
    """Record that this checkout uses the image as its files are now, and all below it."""
    folder = str(image.project.resolve())
    path = _records() / f"{hashlib.sha256(folder.encode()).hexdigest()[:16]}.json"
    name, tags = f"{image.name}-{device.value}", all_tags(image, device)
    with hold(shared_lock("images.lock")):
        if not path.parent.is_dir():
            path.parent.mkdir()
            path.parent.chmod(0o777)
        checkout = _read(path) or _Checkout(folder=folder)
        if checkout.tags.get(name) != tags:
            changed = checkout.model_copy(update={"tags": {**checkout.tags, name: tags}})
            write_atomically(path, changed.model_dump_json())
            path.chmod(0o666)


def prune_images(client: "DockerClient", *, dry_run: bool) -> tuple[Unused, ...]:
    """Remove the images of this project that no checkout names, then the steps of the builder's cache that made them.

    What a container uses stays. With `dry_run` nothing is removed.
    """
    with nullcontext() if dry_run else hold(shared_lock("building.lock")):
        usage = client.df()
        unused = [(tag, size) for tag, size in _unused_tags(usage) if dry_run or _remove(client, tag)]
        steps = list(_unused_steps(usage if dry_run else client.df()))
        for step, _ in () if dry_run else steps:
            filters: Any = {"id": [step]}
            client.api.prune_builds(filters=filters)
    cached = sum(size for _, size in steps)
    found = [Unused(f"image {tag}", size) for tag, size in unused]
    return (*found, *([Unused(f"{len(steps)} steps of the builder's cache", cached)] if steps else []))


def _unused_tags(usage: dict[str, Any]) -> Iterator[tuple[str, int]]:
    wanted = {tag for path in _records().glob("*.json") for tag in _wanted(path)}
    if any(tag.startswith(f"{_OURS}{BASE_NAME}:") for tag in wanted):
        wanted.add(DEBIAN_TAG)
    for image in usage.get("Images") or ():
        if not {INPUTS_LABEL, ORIGIN_LABEL} & set(image.get("Labels") or ()):
            continue
        tags = [tag for tag in image.get("RepoTags") or () if tag.startswith(_OURS)]
        unused = [tag for tag in tags if tag not in wanted]
        own = max(0, int(image["Size"]) - max(0, int(image.get("SharedSize", 0))))
        yield from ((tag, own if unused == tags and tag == tags[0] else 0) for tag in unused)


def _wanted(path: Path) -> tuple[str, ...]:
    """The tags that a record names; none where its checkout is gone."""
    checkout = _read(path)
    if checkout is None or not Path(checkout.folder).is_dir():
        return ()
    return tuple(tag for tags in checkout.tags.values() for tag in tags)


def _unused_steps(usage: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Steps of this project's builds that are part of no image any more, by their id."""
    for step in usage.get("BuildCache") or ():
        ours = any(word in step.get("Description", "") for word in _CACHED_STEPS)
        if ours and step.get("Type") == "regular" and not step.get("InUse") and not step.get("Shared"):
            yield str(step["ID"]), int(step["Size"])


def _remove(client: "DockerClient", tag: str) -> bool:
    from docker.errors import APIError, ImageNotFound

    try:
        client.images.remove(tag)
    except ImageNotFound:
        return False
    except APIError as refusal:
        if refusal.status_code != 409:  # 409: a container uses it
            raise
        return False
    return True


def _records() -> Path:
    return shared_folder() / _RECORDS_NAME


def _read(path: Path) -> _Checkout | None:
    """The record; None where there is none that can be read."""
    try:
        return _Checkout.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
