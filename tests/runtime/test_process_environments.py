import shutil
import sys
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.contract import DeviceKind, harness_digest, harness_folder
from orchestrator.errors import BadImage, RuntimeUnavailable
from orchestrator.images import installing
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.installing import LOOK_UP_HINT
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


class Uv:
    """Makes environments as uv does, of a Python that is this one, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.installed: list[tuple[object, ...]] = []

    def run(self, arguments: list[str], sources: object) -> str:
        self.asked.append([*arguments, sources])
        python = Path(arguments[-1]) / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        return ""


@pytest.fixture
def uv(monkeypatch):
    made = Uv()
    monkeypatch.setattr(environments, "run_uv", made.run)
    monkeypatch.setattr(environments, "install_lock", lambda *asked: made.installed.append(asked))
    monkeypatch.setattr(environments.PackageSources, "configured", classmethod(lambda cls: "the sources"))
    return made


def test_what_stands_in_is_chosen_for_this_python_installed_by_layer_and_said_once(image, tmp_path, uv, monkeypatch):
    image.lock(DeviceKind.CPU).write_text(LOCK)
    other = image.folder.parent / "other"
    other.mkdir()
    (other / "image.toml").write_text(image.description_path.read_text().replace('"hostile"', '"other"'))
    shutil.copytree(image.folder / "locks", other / "locks")
    ImageCatalog(image.folder.parent).images["other"].lock(DeviceKind.CPU).write_text(OTHER_LOCK)
    asked, notes = [], []

    def choose(*question):
        asked.append(question)
        return question[0], SimpleNamespace(note="PyPI's torch stands in")

    monkeypatch.setattr(environments, "choose_build", choose)
    monkeypatch.setattr(environments, "time", SimpleNamespace(monotonic=count(100, 7).__next__))
    folder = tmp_path / "store" / "environments"
    store = Environments(folder)
    made = store.prepare(image, DeviceKind.CPU, notes.append)
    of_this = ("--python", sys.executable)
    assert asked == [(image, DeviceKind.CPU, "the sources", of_this)]
    assert notes[:2] == ["PyPI's torch stands in", "installing the environment of image 'hostile' for cpu"]
    assert notes[2] == "environment of image 'hostile' is ready after 7 s"
    ((*command, temporary, sources),) = uv.asked
    assert (command, sources) == (["venv", "--no-config", "--relocatable", *of_this], "the sources")
    assert Path(temporary).parent == folder
    assert Path(temporary).name.startswith(f".{made.folder.name}.")
    assert not Path(temporary).exists()
    assert uv.installed == [(LOCK, Path(temporary) / "bin" / "python", "the sources", notes.append)]
    assert (
        (made.folder / MARKER_NAME).read_text() == made.lock_sha256 + "\n" == image.lock_digest(DeviceKind.CPU) + "\n"
    )
    assert made.folder.name == f"{made.lock_sha256[:16]}-{made.abi}"
    assert made.abi == f"cp3{sys.version_info.minor}"
    assert store.find(image, DeviceKind.CPU) == made
    store.prepare(ImageCatalog(image.folder.parent).images["other"], DeviceKind.CPU, notes.append)
    assert len(notes) == 5
    assert notes[3] == "installing the environment of image 'other' for cpu"


def test_an_environment_that_another_process_makes_is_waited_for(image, tmp_path, uv, monkeypatch):
    store, seen = Environments(tmp_path), []

    @contextmanager
    def hold(path):
        seen.append(path)
        python = store._environment(image, DeviceKind.CPU).python
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        (python.parent.parent / MARKER_NAME).touch()
        yield

    monkeypatch.setattr(environments, "hold", hold)
    assert store.prepare(image, DeviceKind.CPU, lambda note: None).is_complete
    assert seen == [tmp_path / f".{image.lock_digest(DeviceKind.CPU)[:16]}.lock"]
    assert uv.asked == []


def test_where_python_is_another_one_than_the_locks_are_made_for_the_hint_says_so(image, tmp_path, uv, monkeypatch):
    image.lock(DeviceKind.CPU).write_text(LOCK)
    failure = UvFailed("no wheel of numpy")

    def refuse(*asked):
        raise failure

    monkeypatch.setattr(environments, "install_lock", refuse)
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    for made_for, hint in ((running, LOOK_UP_HINT), ("3.99", f"for Python 3.99, and this is {running}: run with 3.99")):
        monkeypatch.setattr(environments, "PYTHON_VERSION", made_for)
        with pytest.raises(BadImage, match="environment of image 'hostile' for cpu cannot be installed: no") as raised:
            Environments(tmp_path / "environments").prepare(image, DeviceKind.CPU, lambda note: None)
        assert raised.value.hint.endswith(hint)
        assert raised.value.__cause__ is failure


def test_an_image_for_containers_alone_is_refused_with_its_reason(image, tmp_path):
    text = image.description_path.read_text()
    image.description_path.write_text(f'container_only = "it needs a library of its own"\n{text}')
    found = ImageCatalog(image.folder.parent).images["hostile"]
    with pytest.raises(RuntimeUnavailable, match="'hostile' runs as a container alone: it needs a library") as raised:
        Environments(tmp_path).prepare(found, DeviceKind.CPU, lambda note: None)
    assert raised.value.hint == "use --runtime docker"


def test_installed_from_a_wheel_the_harness_that_workers_import_lies_alone_and_is_copied_once(tmp_path, monkeypatch):
    store = Environments(tmp_path / "new" / "environments")
    assert store.harness() == harness_folder().parent
    monkeypatch.setattr(environments, "is_checkout", lambda: False)
    copied = []

    def copy(destination):
        copied.append(destination)
        destination.mkdir(parents=True)

    monkeypatch.setattr(environments, "copy_harness", copy)
    found = store.harness()
    assert found == store.harness() == tmp_path / "new" / "environments" / f"harness-{harness_digest()[:12]}"
    assert [path.name for path in found.iterdir()] == ["harness"]
    assert len(copied) == 1
    assert copied[0].name == "harness"
    assert copied[0].parent.parent == found.parent
    assert {path.name for path in found.parent.iterdir()} == {found.name, ".harness.lock"}
    assert store.unused([]) == ()
