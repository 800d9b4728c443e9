import shutil

import pytest

from harness.contract import DeviceKind
from orchestrator.errors import BadImage, RuntimeUnavailable
from orchestrator.images import installing
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.uv import UvFailed
from orchestrator.runtime import environments
from orchestrator.runtime.environments import MARKER_NAME, Environments
from orchestrator.runtime.launch import Launch, run_raw
from orchestrator.runtime.process import ProcessRuntime

LOCK = "numpy==2.4.6 --hash=sha256:" + "0" * 64 + "\n"
OTHER_LOCK = "numpy==2.4.7 --hash=sha256:" + "1" * 64 + "\n"


@pytest.fixture
def image(hostile, tmp_path):
    folder = tmp_path / "images" / "hostile"
    shutil.copytree(hostile.folder, folder)
    return ImageCatalog(folder.parent).images["hostile"]


@pytest.fixture
def installs(monkeypatch):
    """Records what uv would install; `refusal` is what it answers, where that is set."""

    class Installs(list):
        refusal = ""

    made = Installs()

    def run_uv(arguments, sources, **options):
        made.append(list(arguments))
        if made.refusal:
            raise UvFailed(made.refusal)
        return ""

    monkeypatch.setattr(installing, "run_uv", run_uv)
    return made


def test_an_environment_is_made_once_and_named_after_its_lock(image, tmp_path):
    store, notes = Environments(tmp_path / "environments"), []

    made = store.prepare(image, DeviceKind.CPU, notes.append)
    noted = len(notes)
    again = store.prepare(image, DeviceKind.CPU, notes.append)

    assert made == again
    assert len(notes) == noted == 2
    assert made.folder.name.startswith(f"{image.lock_digest(DeviceKind.CPU)[:16]}-cp3")


def test_images_with_the_same_lock_share_one_environment(image, tmp_path):
    child = image.folder.parent / "child"
    child.mkdir()
    text = image.description_path.read_text().replace('"hostile"', '"child"')
    (child / "image.toml").write_text(f'parent = "hostile"\n{text}')
    store, notes = Environments(tmp_path / "environments"), []
    made = store.prepare(image, DeviceKind.CPU, notes.append)
    noted = len(notes)

    inheriting = ImageCatalog(image.folder.parent).images["child"]

    assert store.prepare(inheriting, DeviceKind.CPU, notes.append) == made
    assert len(notes) == noted


def test_another_lock_is_another_environment(image, tmp_path, installs):
    store = Environments(tmp_path / "environments")
    first = store.prepare(image, DeviceKind.CPU, lambda note: None)
    image.lock(DeviceKind.CPU).write_text(OTHER_LOCK)

    assert store.find(image, DeviceKind.CPU) is None
    assert store.prepare(image, DeviceKind.CPU, lambda note: None).folder != first.folder


def test_a_lock_is_installed_with_its_hashes_and_nothing_else(image, tmp_path, installs):
    image.lock(DeviceKind.CPU).write_text(LOCK)

    Environments(tmp_path / "environments").prepare(image, DeviceKind.CPU, lambda note: None)

    (command,) = installs
    assert {"--require-hashes", "--no-deps", "--no-config"} <= set(command)


def test_an_interrupted_installation_leaves_nothing_that_looks_complete(image, tmp_path, monkeypatch, installs):
    image.lock(DeviceKind.CPU).write_text(LOCK)
    folder = tmp_path / "environments"
    store = Environments(folder)

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environments, "run_uv", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.prepare(image, DeviceKind.CPU, lambda note: None)
    assert store.find(image, DeviceKind.CPU) is None
    assert [path for path in folder.iterdir() if path.is_dir()] == []

    assert store.prepare(image, DeviceKind.CPU, lambda note: None).is_complete


def test_a_folder_without_its_marker_is_made_again(image, tmp_path):
    store = Environments(tmp_path / "environments")
    made = store.prepare(image, DeviceKind.CPU, lambda note: None)
    (made.folder / MARKER_NAME).unlink()

    assert store.find(image, DeviceKind.CPU) is None
    assert store.prepare(image, DeviceKind.CPU, lambda note: None).is_complete


def test_any_other_failure_to_install_is_an_error_that_names_the_image(image, tmp_path, installs):
    image.lock(DeviceKind.CPU).write_text(LOCK)
    installs.refusal = "hash mismatch for numpy"

    with pytest.raises(BadImage, match="image 'hostile' for cpu cannot be installed: hash mismatch") as raised:
        Environments(tmp_path / "environments").prepare(image, DeviceKind.CPU, lambda note: None)
    assert "pip config list" in raised.value.hint
    assert len(installs) == 1


def test_an_image_without_a_lock_is_refused_by_name(image, tmp_path):
    image.lock(DeviceKind.CPU).unlink()

    with pytest.raises(BadImage, match="has no lock for cpu"):
        ProcessRuntime(tmp_path).prepare(image, DeviceKind.CPU, lambda note: None)


def test_an_unprepared_image_is_not_run(image, tmp_path):
    runtime = ProcessRuntime(tmp_path)

    assert runtime.identity(image, DeviceKind.CPU) is None
    with pytest.raises(RuntimeUnavailable, match="not prepared"):
        run_raw(runtime, Launch(image, b""))


def test_a_process_cannot_be_another_user(image, tmp_path):
    with pytest.raises(RuntimeUnavailable, match="not any user that is asked for"):
        run_raw(ProcessRuntime(tmp_path), Launch(image, b"", user=(65534, 65534)))
