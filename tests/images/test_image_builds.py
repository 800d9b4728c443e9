"""Images as an engine builds them: what is rebuilt, what keeps its identity, and what an image says of itself."""

import secrets
import shutil
from pathlib import Path

import pytest
from docker import DockerClient

from harness.contract import DeviceKind
from orchestrator.host import locks
from orchestrator.images.builds import build_image
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.images.inputs import image_tag
from orchestrator.runtime.docker import DockerRuntime
from tests.support.containers import engine_or_skip

pytestmark = pytest.mark.docker
CPU = DeviceKind.CPU


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DockerClient:
    monkeypatch.setattr(locks, "_SHARED", tmp_path / "shared")
    return engine_or_skip()


def checkout(hostile: Image, folder: Path) -> Image:
    """The image with a worker of its own, in an images folder of its own."""
    shutil.copytree(hostile.project, folder)
    return ImageCatalog(folder).images[hostile.name]


def prepare(image: Image) -> tuple[str, list[str]]:
    """The identity, and what was told of building."""
    notes: list[str] = []
    return DockerRuntime().prepare(image, CPU, notes.append), notes


def files_of(client: DockerClient, image: Image) -> bytes:
    return bytes(
        client.containers.run(
            image_tag(image, CPU), ["-c", "cat /opt/llmcbench/worker.py"], entrypoint="/bin/sh", remove=True
        )
    )


def test_a_changed_file_that_the_dockerfile_copies_is_noticed_and_rebuilt(
    client: DockerClient, hostile: Image, tmp_path: Path
) -> None:
    image = checkout(hostile, tmp_path / "images")
    before, _ = prepare(image)
    worker = image.folder / "worker.py"
    change = f"# {secrets.token_hex(8)}\n"  # one that no earlier test run has built
    worker.write_text(worker.read_text() + change)
    assert DockerRuntime().identity(image, CPU) is None

    now, notes = prepare(image)

    assert now != before
    assert any("building image 'hostile'" in note for note in notes)
    assert files_of(client, image).endswith(change.encode())


def test_a_build_of_the_same_files_has_another_id_and_the_same_identity(
    client: DockerClient, hostile: Image, tmp_path: Path
) -> None:
    image = checkout(hostile, tmp_path / "images")
    identity, _ = prepare(image)
    before = client.images.get(image_tag(image, CPU)).id

    build_image(client, image, CPU, lambda note: None, force=True)

    assert client.images.get(image_tag(image, CPU)).id != before
    assert DockerRuntime().identity(image, CPU) == identity


def test_a_checkout_leaves_the_image_of_another_alone(client: DockerClient, hostile: Image, tmp_path: Path) -> None:
    mine, theirs = checkout(hostile, tmp_path / "mine"), checkout(hostile, tmp_path / "theirs")
    identity, _ = prepare(mine)
    (theirs.folder / "worker.py").write_text("print()\n")
    prepare(theirs)

    again, notes = prepare(mine)

    assert again == identity
    assert notes == []
    assert files_of(client, mine) != files_of(client, theirs)


def test_an_image_says_what_it_is_and_is_run_by_nobody(client: DockerClient, tmp_path: Path) -> None:
    plain = Path(__file__).parents[1] / "contract" / "plain"
    shutil.copytree(Path(__file__).parents[2] / "images" / "base", tmp_path / "images" / "base")
    shutil.copytree(plain, tmp_path / "images" / "plain")
    image = ImageCatalog(tmp_path / "images").images["plain"]
    prepare(image)

    said = client.images.get(image_tag(image, CPU))

    uid = int(said.attrs["Config"]["User"].partition(":")[0])
    assert uid >= 1000
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in said.labels.items()}
    assert labels["title"] == "plain"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"]
    answer = client.containers.run(
        image_tag(image, CPU), ["-c", "id -u; test -r /opt/llmcbench/image.toml"], entrypoint="/bin/sh", remove=True
    )
    assert answer.strip() == str(uid).encode()
