"""PyTorch's build for CPUs is not on PyPI: where nothing has it, PyPI's build of that version stands in, as itself."""

import inspect
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.contract import DeviceKind
from orchestrator.errors import BadImage
from orchestrator.images import torch_source
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image, torch_cuda_lock
from orchestrator.images.inputs import container_identity, environment_tag, image_tag
from orchestrator.images.installing import install_file, install_lock
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.staging import stage_environment
from orchestrator.images.torch_build import added_entries, cpu_build, pins_torch, with_pypi_build
from orchestrator.images.torch_source import CONTAINER, choose_build, interpreter
from orchestrator.images.uv import UvFailed, run_uv
from orchestrator.runtime.environments import Environments
from tests.support.package_index import PackageIndex, write_wheel

PROJECT = Path(__file__).parents[2]
IMAGES = PROJECT / "images"
CATALOG = ImageCatalog(IMAGES)
CPU = DeviceKind.CPU
DEVELOPMENT = PROJECT / "requirements" / "dev.txt"
LOCKS = [*sorted(IMAGES.glob("*/locks/cpu.txt")), DEVELOPMENT]
HERE = interpreter(sys.executable)


class World:
    """PyPI, PyTorch's own index, and the images of a project that pins torch from both."""

    def __init__(self, folder: Path) -> None:
        self.pypi = PackageIndex(folder / "pypi")
        self.pytorch = PackageIndex(folder / "pytorch")
        self.lock = self.pypi.add("numpy", "2.4.6") + self.pytorch.add("torch", "2.13.0+cpu")
        self.cuda = self.pypi.add("torch", "2.13.0") + self.pypi.add("nvidia-cublas", "13.1")
        self.cuda += self.pypi.add("nvidia-cusolver", "12.0") + self.pypi.add("triton", "3.7.1")
        images = folder / "images"
        for name in ("torch", "torch-transformers", "gptq", "base"):
            shutil.copytree(IMAGES / name, images / name)
        for image in ("torch", "torch-transformers"):
            (images / image / "locks" / "cpu.txt").write_text(self.lock)
            (images / image / "locks" / "cuda.txt").write_text(self.cuda)
        self.images = ImageCatalog(images).images

    def pytorch_answers(self, monkeypatch: pytest.MonkeyPatch, *, really: bool) -> None:
        """uv's `--torch-backend` leads to this world's index, or to one that no machine reaches."""

        def run(arguments: list[str], sources: PackageSources, **options: object) -> str:
            if "--torch-backend" in arguments:
                place = arguments.index("--torch-backend")
                theirs = self.pytorch.address if really else "http://127.0.0.1:9"
                arguments = [*arguments[:place], "--extra-index-url", theirs, *arguments[place + 2 :]]
            return run_uv(arguments, sources, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(torch_source, "run_uv", run)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path / "world")
    made.pytorch_answers(monkeypatch, really=False)
    yield made
    torch_source.decide.cache_clear()


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The Python of an empty virtual environment."""
    folder = tmp_path / "environment"
    run_uv(["venv", "--no-config", "--python", sys.executable, str(folder)], PackageSources())
    return folder / "bin" / "python"


def version_in(python: Path) -> str:
    command = [str(python), "-c", "import torch; print(torch.version)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.parents[1].name)
def test_each_lock_for_a_cpu_has_a_stand_in_that_changes_torch_alone_and_pins_all_of_it(path: Path) -> None:
    lock, cuda = path.read_text(), torch_cuda_lock(IMAGES).read_text()
    if not pins_torch(lock):
        assert with_pypi_build(lock, cuda) is None
        return
    build, changed = cpu_build(lock), with_pypi_build(lock, cuda)
    assert build is not None
    assert changed is not None
    assert [one.partition(" ")[0] for one in added_entries(changed, lock)] == [build.requirement]
    added = added_entries(lock, changed)
    assert f"torch=={build.version}" in [one.partition(" ")[0] for one in added]
    assert {one.partition("==")[0].partition("-")[0] for one in added} == {"torch", "nvidia"}
    assert all("--hash=sha256:" in one and one in cuda for one in added)


def test_a_lock_whose_torch_is_of_another_version_has_no_stand_in() -> None:
    lock = "torch==2.13.0+cpu --hash=sha256:" + "0" * 64 + "\n"
    assert with_pypi_build(lock, "torch==2.13.01 --hash=sha256:" + "1" * 64 + "\n") is None
    assert with_pypi_build(lock, "numpy==2.13.0 --hash=sha256:" + "1" * 64 + "\n") is None


def test_what_the_lock_pins_itself_stays_and_what_no_cpu_loads_is_left_out(world: World) -> None:
    lock = world.lock + "nvidia-cublas==12.0 --hash=sha256:" + "2" * 64 + "\n"
    changed = with_pypi_build(lock, world.cuda) or ""
    assert [line.partition(" ")[0] for line in changed.splitlines()] == [
        "numpy==2.4.6",
        "nvidia-cublas==12.0",
        "torch==2.13.0",
    ]


def test_a_configured_source_is_taken_first_and_nothing_is_said(world: World) -> None:
    both = PackageSources(index=world.pypi.address, extra_indexes=(world.pytorch.address,))
    chosen, decision = choose_build(world.images["gptq"], CPU, both, HERE)
    assert chosen is world.images["gptq"]
    assert decision.note == ""


def test_pytorchs_own_index_comes_next_under_the_same_hash(
    world: World, monkeypatch: pytest.MonkeyPatch, environment: Path, tmp_path: Path
) -> None:
    world.pytorch_answers(monkeypatch, really=True)
    image = world.images["torch"]
    chosen, decision = choose_build(image, CPU, world.pypi.sources, HERE)
    assert chosen is image
    assert "torch 2.13.0+cpu comes from PyTorch's own index" in decision.note
    install_lock(image.lock_text(CPU), environment, world.pypi.sources)
    assert version_in(environment) == "2.13.0+cpu"


def test_pypis_build_stands_in_last_and_its_size_is_said_before(world: World, environment: Path) -> None:
    chosen, decision = choose_build(world.images["gptq"], CPU, world.pypi.sources, HERE)
    assert chosen.pypi_torch
    assert "no package source here has torch==2.13.0+cpu" in decision.note
    assert "PyPI's build of the same version stands in" in decision.note
    assert "2 packages" in decision.note
    install_lock(chosen.lock_text(CPU), environment, world.pypi.sources)
    assert version_in(environment) == "2.13.0"


def test_a_source_that_says_nothing_is_asked_once_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_source, "_SILENCE_SECONDS", 1)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            with suppress(OSError):
                while True:
                    asked.append(server.accept()[0])

        threading.Thread(target=listen, daemon=True).start()
        silent = PackageSources(index=f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        with pytest.raises(UvFailed):
            torch_source._resolve("torch==2.13.0", silent, HERE)
        server.shutdown(socket.SHUT_RDWR)
    assert len(asked) == 1
    asked[0].close()


def test_another_file_of_that_version_is_not_the_locks_build(world: World) -> None:
    world.pypi.add("torch", "2.13.0+cpu", content="another = True")
    chosen, decision = choose_build(world.images["gptq"], CPU, world.pypi.sources, HERE)
    assert chosen.pypi_torch
    assert decision.stands_in


def test_where_neither_build_can_be_had_both_are_named_with_what_to_do(world: World, tmp_path: Path) -> None:
    empty = PackageIndex(tmp_path / "empty").sources
    with pytest.raises(BadImage, match=r"no package source here has torch==2\.13\.0\+cpu .*nor PyPI's build") as raised:
        choose_build(world.images["gptq"], CPU, empty, HERE)
    assert "PIP_FIND_LINKS" in raised.value.hint


def test_an_image_with_a_torch_that_no_lock_has_from_pypi_is_refused(world: World) -> None:
    torch_cuda_lock(world.images["gptq"].project).write_text("")
    with pytest.raises(BadImage, match=r"no package source here has torch==2\.13\.0\+cpu"):
        choose_build(world.images["gptq"], CPU, world.pypi.sources, HERE)


def test_on_a_gpu_nothing_stands_in(world: World) -> None:
    image = world.images["gptq"]
    assert choose_build(image, DeviceKind.CUDA, world.pypi.sources, HERE)[0] is image
    assert image.builds(DeviceKind.CUDA) == (image,)


def digests(image: Image) -> set[str]:
    return {
        image.lock_digest(CPU),
        environment_tag(image, CPU),
        image_tag(image, CPU),
        container_identity(image, CPU, None),
    }


def test_the_two_builds_are_two_images_by_lock_environment_tag_and_identity(world: World) -> None:
    for name in ("torch", "gptq"):
        image, instead = world.images[name].builds(CPU)
        assert not digests(image) & digests(instead)
        assert image.lock_digest(DeviceKind.CUDA) == instead.lock_digest(DeviceKind.CUDA)


def test_a_stand_in_stands_on_a_stand_in(world: World) -> None:
    _, instead = world.images["gptq"].builds(CPU)
    assert [layer.pypi_torch for layer in instead.layers] == [True, True]
    assert instead.builds(CPU) == (instead,)


def test_a_container_gets_the_address_with_the_layer_that_brings_torch_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world.pytorch_answers(monkeypatch, really=True)
    seen = []
    pypi = PackageSources(index=world.pypi.address)
    monkeypatch.setattr(PackageSources, "elsewhere", property(lambda self: self))
    for name in ("torch", "torch-transformers"):
        context = tmp_path / name
        context.mkdir()
        stage_environment(world.images[name], CPU, context, pypi)
        seen.append((context / "lock.txt").read_text())
    assert f"torch @ {world.pytorch.address}" in seen[0]
    assert cpu_build(seen[1]) is not None


def test_a_container_is_not_offered_what_only_this_machine_reads(world: World, tmp_path: Path) -> None:
    here = PackageSources(
        index="https://i.example/simple",
        extra_indexes=(world.pytorch.address, "https://a.example"),
        find_links=(str(tmp_path), "https://links.example"),
    )
    assert here.elsewhere.extra_indexes == ("https://a.example",)
    assert here.elsewhere.find_links == here.find_links
    assert "https://links.example" in here.uv_arguments()
    assert "find-links = https://links.example\n" in here.pip_configuration(certificate=None)


def test_the_process_runtime_keeps_the_stand_in_apart_and_finds_it_again(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(PackageSources, "configured", classmethod(lambda cls: world.pypi.sources))
    store, notes = Environments(tmp_path / "environments"), list[str]()
    image = world.images["gptq"]
    made = store.prepare(image, CPU, notes.append)
    assert version_in(made.python) == "2.13.0"
    assert made.lock_sha256 == image.builds(CPU)[1].lock_digest(CPU) != image.lock_digest(CPU)
    assert store.find(image, CPU) == made
    assert store.unused(world.images.values()) == ()
    assert sum("stands in" in note for note in notes) == 1
    store.prepare(world.images["torch"], CPU, notes.append)
    assert sum("stands in" in note for note in notes) == 1


def test_what_the_tests_need_is_installed_by_the_same_rule(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: Path
) -> None:
    monkeypatch.setattr(PackageSources, "configured", classmethod(lambda cls: world.pypi.sources))
    monkeypatch.setattr(sys, "executable", str(environment))
    requirements, notes = tmp_path / "dev.txt", list[str]()
    requirements.write_text(world.lock)
    install_file(requirements, torch_cuda_lock(world.images["torch"].project), notes.append)
    assert version_in(environment) == "2.13.0"
    assert ["stands in" in note for note in notes] == [True]


BUILDER = f"""
import zipfile
from pathlib import Path

{inspect.getsource(write_wheel)}

def build_wheel(folder, settings=None, metadata=None):
    write_wheel(Path(folder, "built-1-py3-none-any.whl"), "built", "1")
    return "built-1-py3-none-any.whl"
"""


def test_what_builds_packages_is_installed_before_them(tmp_path: Path, environment: Path) -> None:
    """A fresh virtual environment has the setuptools that came with its Python, or none."""
    index = PackageIndex(tmp_path / "index")
    lock = index.add_source("built", "1", "setuptools") + index.add("setuptools", "99", BUILDER)
    install_lock(lock, environment, index.sources)
    command = [str(environment), "-c", "import built, setuptools; print(built.version, setuptools.version)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["1", "99"]


def test_a_container_is_for_the_python_of_the_locks_on_any_host(world: World) -> None:
    assert choose_build(world.images["torch"], CPU, world.pypi.sources, CONTAINER)[0].pypi_torch
