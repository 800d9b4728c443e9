"""An image without Python, from outside the project, in a container: built, used, and taken by its id as prebuilt."""

import json
from pathlib import Path

import pytest

from harness.contract import DeviceKind
from orchestrator.checks.checking import CHECKED_NAME, check_and_use
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.engine import connect, image_id
from orchestrator.images.image import Image
from orchestrator.images.inputs import image_tag
from orchestrator.images.scaffold import Kind, Language, write_image
from orchestrator.runtime.docker import DockerRuntime
from tests.support.containers import engine_or_skip

IMAGES = Path(__file__).parents[2] / "images"

pytestmark = pytest.mark.docker


def failures(image: Image, root: Path) -> list[str]:
    checks = list(check_and_use(DockerRuntime(), image, DeviceKind.CPU, None, root, lambda note: None))
    assert len(checks) >= 12
    return [f"{one.name}: {one.message}" for one in checks if one.passed is False]


def test_a_new_image_passes_and_so_does_the_same_one_by_its_id(tmp_path: Path) -> None:
    engine_or_skip()
    folder = write_image("one-of-mine", Kind.METHOD, Language.SHELL, tmp_path)
    built = ImageCatalog(IMAGES, folder).images["one-of-mine"]
    assert failures(built, tmp_path / "store") == []
    assert (tmp_path / "store" / CHECKED_NAME / "one-of-mine" / "checkpoint").is_dir()

    identity = image_id(connect(), image_tag(built, DeviceKind.CPU))
    description = json.loads(built.description_path.read_text("utf-8"))
    built.description_path.write_text(json.dumps(description | {"prebuilt": identity}), encoding="utf-8")
    ready_made = ImageCatalog(IMAGES, folder).images["one-of-mine"]
    assert DockerRuntime().prepare(ready_made, DeviceKind.CPU, lambda note: None) == f"docker:prebuilt:{identity}"
    assert failures(ready_made, tmp_path / "store") == []
