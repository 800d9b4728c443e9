import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from harness import physics
from harness.contract import Device, DeviceKind, Reason
from harness.errors import Unsupported, WorkerError
from orchestrator.errors import BadManifest, OrchestratorError
from orchestrator.host.load import MachineLoad
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.installation import default_data_folder
from orchestrator.manifest.hub import HubUnavailable
from orchestrator.run import execution, facts, resources, setup
from tests.support.every_image import write_every_image
from tests.support.manifest_places import Where, is_a_place
from tests.support.small_runs import IMAGES, Bench

os.environ.setdefault("OMP_THREAD_LIMIT", "1")  # of each process: torch would wait for cores that other tests keep busy

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton asks once, when it is first imported, which any test may do
else:
    os.environ |= Device(kind=DeviceKind.CUDA).variables(os.environ)  # work in this process has one GPU, as a worker's

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")  # how long an example takes says how busy the machine is

if folder := default_data_folder():
    os.environ.setdefault("LLMCBENCH_DATA", str(folder))  # where tests look for real data

THEIR_OWN = ("torchinductor_", "pymp-")
"""What libraries keep in the temporary folder for the next process, or until this one ends."""

os.environ.pop("COLUMNS", None)  # how wide this terminal is says nothing about what a command prints


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This machine's temporary folder, as tests and what they start see it, in which none may leave anything.

    It is not below pytest's own, whose path is too long for the sockets in it.
    """
    tmp_path_factory.getbasetemp()  # where it would be without this
    folder = Path(tempfile.mkdtemp(prefix="tests-"))
    folder.chmod(0o1777)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr("tempfile.tempdir", None)
        yield
    locks = f"llmcbench-{os.getuid()}"  # of devices, which commands in processes of their own hold
    left = sorted(one.name for one in folder.iterdir() if not one.name.startswith(THEIR_OWN) and one.name != locks)
    shutil.rmtree(folder)
    assert not left, f"tests left {left} in the temporary folder"


@pytest.fixture(scope="session", autouse=True)
def every_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work that a test does in its own process finds every method and backend of the project."""
    path = tmp_path_factory.mktemp("image") / "image.toml"
    write_every_image(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMCBENCH_IMAGE", str(path))
        yield


@pytest.fixture(scope="session", autouse=True)
def errors_say_something() -> Iterator[None]:
    """Every failure that a test meets says what happened, and a worker's what to do: in words, whoever reads them.

    One of a manifest leads to a place that it can have; a refusal has a reason of the contract's.
    """

    def speaking(kind: type[WorkerError] | type[OrchestratorError], *, helps: bool) -> Callable[..., None]:
        plain = kind.__init__

        def checked(self: Exception, message: str, *, hint: str = "") -> None:
            assert isinstance(message, str), message
            assert message.strip()
            assert isinstance(hint, str), hint
            assert hint.strip() or not helps, message
            plain(self, message, hint=hint)

        return checked

    of_manifests = BadManifest.__init__

    def placed(self: BadManifest, message: str, *, hint: str = "", where: Where = ()) -> None:
        assert is_a_place(where), where
        of_manifests(self, message, hint=hint, where=where)

    of_refusals = Unsupported.__init__

    def reasoned(self: Unsupported, reason: Reason, message: str, *, hint: str) -> None:
        assert isinstance(reason, Reason), reason
        of_refusals(self, reason, message, hint=hint)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkerError, "__init__", speaking(WorkerError, helps=True))
        patch.setattr(OrchestratorError, "__init__", speaking(OrchestratorError, helps=False))
        patch.setattr(BadManifest, "__init__", placed)
        patch.setattr(Unsupported, "__init__", reasoned)
        yield


class QuietMachine:
    """Nothing but the test runs."""

    def load(self) -> MachineLoad:
        return MachineLoad(load_average=0.5, pressure_fraction=0.0, steal_fraction=0.0)


@pytest.fixture(scope="session", autouse=True)
def machine_of_ones_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this machine is and does meanwhile decides no test. For fixtures of a module, too, so not per test."""

    def refuse(repository: str, revision: str) -> None:
        raise HubUnavailable(f"no test asks for {repository}")

    locks = tmp_path_factory.mktemp("locks")
    own, others = os.getuid(), resources.device_lock_path

    def device_lock_path(name: str) -> Path:
        return locks / f"device-{name}.lock" if os.getuid() == own else others(name)  # a test goes on as another user

    with pytest.MonkeyPatch.context() as patch:
        # The engine has images of other tests and checkouts, which `clean` would take.
        patch.setattr("orchestrator.cli.inspection._prune_engine", lambda *, dry_run: [])
        # A benchmark that runs here meanwhile holds the real locks.
        patch.setattr(resources, "device_lock_path", device_lock_path)
        # A measurement that something disturbed would be taken once more.
        patch.setattr(execution, "LoadWatch", QuietMachine)
        # Somebody may be at work on the checkout.
        patch.setattr(facts, "checkout_commit", lambda: "0" * 40)
        # The hub gives no configuration and no size, and has every data set.
        patch.setattr(setup, "model_config", refuse)
        patch.setattr(setup, "weights_bytes", lambda repository, revision: None)
        patch.setattr(setup, "find_dataset", lambda repository, revision: None)
        # What a processor can do at most is found in a hundredth of the usual work: a tiny model is far below it.
        patch.setattr(physics, "_SIZES", physics._SIZES | {"cpu": (256,)})
        patch.setattr(physics, "_SAMPLE_BYTES", 2**22)
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk() -> Iterator[None]:
    """No test cuts the power: what would be on the disk by then is held by the calls made, and their order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The smallest image of all, whose worker does what no worker should."""
    images = tmp_path_factory.mktemp("images")
    shutil.copytree(IMAGES / "base", images / "base")
    shutil.copytree(Path(__file__).parent / "runtime" / "hostile", images / "hostile")
    return ImageCatalog(images).images["hostile"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Runs of a small catalog of images, each in a store of its own."""
    return Bench(tmp_path / "store")


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run of a real engine is found to get faster, so that no note says so."""
    monkeypatch.setattr("harness.backends.timing.still_warming_up", lambda seconds: False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


def pytest_collection_finish() -> None:
    """What was imported and collected stays until the end, so that no collection of garbage looks through it again."""
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is here")
