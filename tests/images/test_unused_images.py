"""What `clean` takes from a container engine: what is ours and no checkout names, and nothing of others."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError

from harness.contract import DeviceKind
from orchestrator.host import locks
from orchestrator.images.base_image import DEBIAN_TAG
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.images.inputs import all_tags
from orchestrator.images.pruning import Unused, name_images, prune_images
from orchestrator.runtime.environments import Environments

IMAGES = Path(__file__).parents[2] / "images"
LABELS = {"llmcbench.inputs": "1"}


class Conflict(APIError):
    status_code = 409


@dataclass
class Engine:
    """As much of an engine's client as pruning asks. `used` are tags of images that a container uses."""

    tags: list[list[str]]
    steps: list[dict[str, Any]] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=lambda: dict(LABELS))
    used: tuple[str, ...] = ()
    removed: list[str] = field(default_factory=list)

    @property
    def images(self) -> "Engine":
        return self

    @property
    def api(self) -> "Engine":
        return self

    def df(self) -> dict[str, Any]:
        images = [{"RepoTags": tags, "Labels": self.labels, "Size": 100, "SharedSize": 60} for tags in self.tags]
        return {"Images": images, "BuildCache": self.steps}

    def remove(self, tag: str) -> None:
        if tag in self.used:
            raise Conflict("in use")
        self.removed.append(tag)

    def prune_builds(self, filters: dict[str, list[str]]) -> None:
        self.removed += filters["id"]


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(locks, "_SHARED", tmp_path / "shared")
    return tmp_path / "shared"


def checkout(folder: Path) -> Image:
    shutil.copytree(IMAGES, folder / "images")
    return ImageCatalog(folder / "images").images["gptq"]


def prune(engine: Engine, *, dry_run: bool = False) -> tuple[Unused, ...]:
    return prune_images(engine, dry_run=dry_run)  # type: ignore[arg-type]


def test_what_a_checkout_was_prepared_with_stays_and_what_it_was_before_goes(tmp_path: Path) -> None:
    image = checkout(tmp_path)
    before = all_tags(image, DeviceKind.CPU)
    name_images(image, DeviceKind.CPU)
    lock = image.lock(DeviceKind.CPU)
    lock.write_text(lock.read_text() + "\n")
    name_images(image, DeviceKind.CPU)
    now = all_tags(image, DeviceKind.CPU)
    engine = Engine([[tag] for tag in {*before, *now, DEBIAN_TAG}])

    prune(engine)

    assert set(engine.removed) == set(before) - set(now)
    assert len(engine.removed) == 2  # torch and the base image below are as before


def test_two_checkouts_keep_each_others_images_until_one_is_gone(tmp_path: Path) -> None:
    first, second = checkout(tmp_path / "first"), checkout(tmp_path / "second")
    lock = second.lock(DeviceKind.CPU)
    lock.write_text(lock.read_text() + "\n")
    for image in (first, second):
        name_images(image, DeviceKind.CPU)
    tags = {*all_tags(first, DeviceKind.CPU), *all_tags(second, DeviceKind.CPU)}
    gone = tags - set(all_tags(first, DeviceKind.CPU))

    assert prune(Engine([[tag] for tag in tags])) == ()
    shutil.rmtree(second.project)
    assert {one.what for one in prune(Engine([[tag] for tag in tags]))} == {f"image {tag}" for tag in gone}


def test_images_of_others_stay_even_where_they_are_built_on_ours() -> None:
    engine = Engine([["theirs/gptq:cpu"], [], ["llmcbench/old:cpu", "theirs/kept:1"]])

    prune(engine)

    assert engine.removed == ["llmcbench/old:cpu"]


def test_an_image_with_our_name_and_without_our_label_stays() -> None:
    engine = Engine([["llmcbench/own:1"]], labels={})

    assert prune(engine) == ()


def test_an_image_that_a_container_uses_stays() -> None:
    assert prune(Engine([["llmcbench/old:cpu"]], used=("llmcbench/old:cpu",))) == ()


def test_a_dry_run_removes_nothing_and_says_what_nothing_else_shares() -> None:
    engine = Engine([["llmcbench/old:cpu"]])

    assert prune(engine, dry_run=True) == (Unused("image llmcbench/old:cpu", 40),)
    assert engine.removed == []


def test_steps_of_our_builds_that_are_in_no_image_go_and_no_others() -> None:
    step = {"Type": "regular", "InUse": False, "Shared": False, "Size": 7, "Description": "RUN install-lock /build"}
    steps = [
        {**step, "ID": "ours"},
        {**step, "ID": "in an image", "Shared": True},
        {**step, "ID": "running", "InUse": True},
        {**step, "ID": "theirs", "Description": "RUN make"},
        {**step, "ID": "pip's cache", "Type": "exec.cachemount"},
    ]
    engine = Engine([], steps=steps)

    assert prune(engine) == (Unused("1 steps of the builder's cache", 7),)
    assert engine.removed == ["ours"]


def test_environments_of_no_lock_are_unused(tmp_path: Path) -> None:
    image = checkout(tmp_path)
    folder = tmp_path / "environments"
    kept = f"{image.lock_digest(DeviceKind.CPU)[:16]}-cp311"
    for name in (kept, "0123456789abcdef-cp311", f".{kept}.1a2b.tmp", "gptq-cpu-0123456789ab-cp311"):
        (folder / name).mkdir(parents=True)
    (folder / f".{kept[:16]}.lock").touch()
    (folder / ".0123456789abcdef.lock").touch()

    unused = {path.name for path in Environments(folder).unused([image])}

    there = {path.name for path in folder.iterdir()}
    assert there - unused == {kept, f".{kept[:16]}.lock"}
