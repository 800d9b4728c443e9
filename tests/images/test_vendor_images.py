"""Images that stand on what a vendor gives out: NVIDIA's release image, and wheels that no index has."""

import hashlib
import io
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from docker.errors import ImageNotFound

from harness.contract import DeviceKind
from orchestrator.errors import BadImage, RuntimeUnavailable
from orchestrator.images.builds import build_image
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import VENDOR_WHEELS_NAME, Image
from orchestrator.images.inputs import environment_digest, environment_tag, image_tag
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.staging import stage_environment
from orchestrator.images.vendor_wheels import find_vendor_wheels, vendor_wheels
from orchestrator.runtime.environments import Environments
from tests.support.containers import BASE_TAG, engine_or_skip

IMAGES = Path(__file__).parents[2] / "images"


@pytest.fixture
def copy(tmp_path: Path) -> dict[str, Image]:
    shutil.copytree(IMAGES, tmp_path / "images")
    return ImageCatalog(tmp_path / "images").images


def fill_in(image: Image, folder: Path) -> list[Path]:
    """Two files in place of the wheels, with their sha256 written into the image's pins."""
    pins = image.folder / VENDOR_WHEELS_NAME
    text, wheels = pins.read_text(), []
    for name in ("mlc_ai_cu130-0.20.0-py3-none-any.whl", "mlc_llm_cu130-0.20.0.dev0-py3-none-any.whl"):
        wheel = folder / name
        wheel.write_bytes(name.encode())
        text = text.replace('sha256 = ""', f'sha256 = "{hashlib.sha256(name.encode()).hexdigest()}"', 1)
        wheels.append(wheel)
    pins.write_text(text)
    return wheels


def test_the_shipped_wheels_are_named_by_version_and_lack_their_sha256() -> None:
    with pytest.raises(BadImage, match=r"mlc-ai-cu130 0\.20\.0, and its sha256 in .* is empty") as refusal:
        vendor_wheels(ImageCatalog(IMAGES).images["mlc-llm"])
    assert "sha256sum FILE" in refusal.value.hint


def test_a_build_without_them_stops_before_anything_is_built(copy: dict[str, Image]) -> None:
    notes: list[str] = []
    with pytest.raises(BadImage, match=r"its sha256 in .* is empty"):
        build_image(None, copy["mlc-llm"], DeviceKind.CUDA, notes.append)  # type: ignore[arg-type]
    assert notes == []


def test_supplied_wheels_and_their_pins_go_into_the_build_context(copy: dict[str, Image], tmp_path: Path) -> None:
    folder, context = tmp_path / "wheels", tmp_path / "context"
    folder.mkdir()
    context.mkdir()
    wheels = fill_in(copy["mlc-llm"], folder)
    stage_environment(copy["mlc-llm"], DeviceKind.CUDA, context, PackageSources(find_links=(str(folder),)))
    assert sorted(path.name for path in (context / "wheels").iterdir()) == [wheel.name for wheel in wheels]
    last = (context / "lock.txt").read_text().splitlines()[-2:]
    assert [line.partition(" ")[0] for line in last] == [
        "mlc-ai-cu130==0.20.0",
        "mlc-llm-cu130==0.20.0.dev0",
    ]
    assert all("--hash=sha256:" in line for line in last)


def test_a_pinned_wheel_that_is_nowhere_is_named(copy: dict[str, Image], tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    fill_in(copy["mlc-llm"], folder)[1].write_bytes(b"another file")
    with pytest.raises(BadImage, match="no find-links folder has the wheel of mlc-llm-cu130"):
        find_vendor_wheels(copy["mlc-llm"], PackageSources(find_links=(str(folder),)))


def test_other_pins_or_another_foundation_make_another_environment(copy: dict[str, Image], tmp_path: Path) -> None:
    before = environment_digest(copy["mlc-llm"], DeviceKind.CUDA)
    fill_in(copy["mlc-llm"], tmp_path)
    assert environment_digest(copy["mlc-llm"], DeviceKind.CUDA) != before
    before = environment_digest(copy["tensorrt-llm"], DeviceKind.CUDA)
    path = copy["tensorrt-llm"].description_path
    path.write_text(path.read_text().replace("release:1.2.1", "release:1.2.2"))
    changed = ImageCatalog(path.parents[1]).images["tensorrt-llm"]
    assert environment_digest(changed, DeviceKind.CUDA) != before


@pytest.mark.parametrize(
    ("name", "reason"), [("tensorrt-llm", "it is built on nvcr.io"), ("mlc-llm", "without the wheels of")]
)
def test_the_process_runtime_refuses_them_with_the_reason(name: str, reason: str, tmp_path: Path) -> None:
    image = ImageCatalog(IMAGES).images[name]
    with pytest.raises(RuntimeUnavailable, match=f"runs as a container alone: .*{reason}") as refusal:
        Environments(tmp_path).prepare(image, DeviceKind.CUDA, lambda note: None)
    assert "--runtime docker" in refusal.value.hint


@pytest.mark.docker
def test_tensorrt_llm_builds_on_an_image_without_ensurepip(copy: dict[str, Image]) -> None:
    """NVIDIA's image has pip for its own Python alone, and the path of TensorRT for its shells alone."""
    client = engine_or_skip()
    tag = f"llmcbench/test-foundation:{uuid.uuid4().hex[:12]}"
    text = f"""FROM {BASE_TAG}
USER 0
RUN cp -r /opt/venv/lib/python3.11/site-packages/pip /usr/lib/python3/dist-packages/ \\
    && rm -rf /opt/venv /usr/lib/python3.11/ensurepip
ENV PATH=/usr/bin:/bin LD_LIBRARY_PATH=/usr/local/vendor
"""
    client.images.build(fileobj=io.BytesIO(text.encode()), tag=tag, rm=True)
    description, vendors = copy["tensorrt-llm"].description_path, copy["tensorrt-llm"].description.foundation
    description.write_text(description.read_text().replace(str(vendors), tag))
    image = ImageCatalog(description.parents[1]).images["tensorrt-llm"]
    built = image_tag(image, DeviceKind.CUDA)
    try:
        build_image(client, image, DeviceKind.CUDA, lambda note: None)
        script = "import os, pip, pynvml; print(os.environ['LD_LIBRARY_PATH'], pip.__file__, pynvml.__file__)"
        said = client.containers.run(built, ["-c", script], entrypoint="/opt/venv/bin/python", remove=True)
        libraries, pip, added = said.decode().split()
        assert libraries == "/usr/local/tensorrt/lib:/usr/local/vendor"
        assert pip.startswith("/usr/lib/python3/dist-packages/")
        assert added.startswith("/opt/venv/lib/python3.11/site-packages/")
    finally:
        for made in (built, environment_tag(image, DeviceKind.CUDA), tag):
            with suppress(ImageNotFound):
                client.images.remove(made, force=True)
