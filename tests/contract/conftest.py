"""The smallest honest image: the harness with pydantic, on the base image; run by either real runtime."""

import shutil
from pathlib import Path

import pytest

from harness.contract import DeviceKind
from orchestrator.errors import BadImage
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.runtime.docker import DockerRuntime
from orchestrator.runtime.launch import Launcher
from orchestrator.runtime.process import ProcessRuntime
from tests.support.containers import engine_or_skip

PROJECT = Path(__file__).parents[2]
UNREACHABLE = ("dns error", "Failed to fetch", "Connection refused", "error sending request")


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> ImageCatalog:
    images = tmp_path_factory.mktemp("contract") / "images"
    shutil.copytree(PROJECT / "images" / "base", images / "base")
    shutil.copytree(Path(__file__).parent / "plain", images / "plain")
    shutil.copytree(PROJECT / "tests" / "runtime" / "hostile", images / "hostile")
    return ImageCatalog(images)


@pytest.fixture(scope="session")
def plain(catalog: ImageCatalog) -> Image:
    return catalog.images["plain"]


@pytest.fixture(scope="session")
def hostile(catalog: ImageCatalog) -> Image:
    return catalog.images["hostile"]


def ready(runtime: Launcher, image: Image) -> Launcher:
    """Prepare the image; where packages are needed and no index can be reached, the test is skipped."""
    try:
        runtime.prepare(image, DeviceKind.CPU, lambda note: None)
    except BadImage as failure:
        if any(sign in failure.message for sign in UNREACHABLE):
            pytest.skip(f"no package index can be reached: {failure.message.splitlines()[-1]}")
        raise
    return runtime


@pytest.fixture(
    params=[pytest.param("process", marks=pytest.mark.network), pytest.param("docker", marks=pytest.mark.docker)]
)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "docker":
        engine_or_skip()
    return str(request.param)


@pytest.fixture
def runtime(kind: str, plain: Image, tmp_path: Path) -> Launcher:
    """A runtime that has the plain image ready."""
    return ready(DockerRuntime() if kind == "docker" else ProcessRuntime(tmp_path), plain)


@pytest.fixture
def hostile_runtime(kind: str, hostile: Image, tmp_path: Path) -> Launcher:
    """A runtime that has the hostile image ready, and starts its worker."""
    if kind == "docker":
        return ready(DockerRuntime(), hostile)
    return ready(ProcessRuntime(tmp_path, worker=(str(hostile.folder / "worker.py"),)), hostile)
