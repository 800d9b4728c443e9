"""A model that is split over several GPUs: what the engines are asked, and what of each GPU is told.

Neither library was run on two GPUs: these are stand-ins, with GPUs that are invented.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from harness import device_telemetry
from harness.backends import benchmark as benchmarking
from harness.backends import run, serving_memory
from harness.backends.serving_memory import PeakOfDevices, peaks_of_devices
from harness.backends.tensorrt_llm import loading as tensorrt_loading
from harness.backends.tensorrt_llm import serving as tensorrt_serving
from harness.backends.vllm import loading as vllm_loading
from harness.backends.vllm import serving as vllm_serving
from harness.contract import (
    BenchmarkParameters,
    BenchmarkRequest,
    BenchmarkResult,
    Device,
    DeviceKind,
    Reason,
)
from harness.device_telemetry import DeviceMemory, gpu_uuids, memory_of, watch
from harness.errors import BadRequest, OutOfMemory, Unsupported, WorkerError
from harness.models import loading
from harness.profiling import memory as profiling_memory
from tests.support.fake_vllm import FakeVllm
from tests.support.small_checkpoints import Recorder, publish_checkpoint, small_model
from tests.support.vendor_engines import SHORT, VendorEngine, install

TWO = Device(kind=DeviceKind.CUDA, uuids=("GPU-a", "GPU-b"))
BEFORE = 2**30


class Gpus:
    """Two invented GPUs, of which this process computes on none; `held` is what an engine holds of each."""

    def __init__(self) -> None:
        self.held = [3 * 2**30, 5 * 2**30]
        self.free = 2**40
        self.is_loaded = False
        self.asked: list[int] = []

    def select(self, device: Device, gpus: int = 1) -> torch.device:
        if device.kind is DeviceKind.CPU:
            return loading.select_device(device, gpus)
        self.asked.append(gpus)
        assert len(device.uuids) == gpus
        return torch.device("cpu")

    def memory(self, uuids: Sequence[str]) -> tuple[DeviceMemory, ...]:
        held = self.held if self.is_loaded else [0, 0]
        places = [("GPU-a", "GPU-b").index(uuid) for uuid in uuids]
        return tuple(DeviceMemory(BEFORE + held[place], self.free) for place in places)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    found = Gpus()
    for module in (benchmarking, vllm_loading, vllm_serving, tensorrt_loading, tensorrt_serving):
        monkeypatch.setattr(module, "select_device", found.select)
    for module in (benchmarking, vllm_serving, tensorrt_serving):
        monkeypatch.setattr(module, "gpu_uuids", lambda where, gpus=1: TWO.uuids[:gpus])
    for module in (serving_memory, profiling_memory):
        monkeypatch.setattr(module, "memory_of", found.memory)
    return found


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return publish_checkpoint(tmp_path / "model", small_model("llama"))


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch, gpus: Gpus) -> FakeVllm:
    def load() -> None:
        gpus.is_loaded = True

    return FakeVllm(device_type="cuda", loading=load).install(monkeypatch)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: Gpus) -> VendorEngine:
    gpus.is_loaded = True
    return install(monkeypatch, tmp_path)


def perform(checkpoint: Path, backend: str, device: Device = TWO, **options: Any) -> BenchmarkResult:
    request = BenchmarkRequest(
        id="test",
        device=device,
        inputs={"checkpoint": str(checkpoint)},
        output=str(checkpoint.parent),
        parameters=BenchmarkParameters(**{"backend": backend, **SHORT, "options": options}),
    )
    return run(request, Recorder().reporter)


def test_vllm_is_asked_to_split_the_model_and_its_cache(checkpoint: Path, vllm: FakeVllm, gpus: Gpus) -> None:
    """Two layers of two key-value heads of eight values: a head each, of four sequences' blocks of 128 tokens."""
    result = perform(checkpoint, "vllm", tensor_parallel=2)
    (asked,) = vllm.arguments
    assert (asked.tensor_parallel_size, asked.distributed_executor_backend) == (2, "mp")
    assert asked.kv_cache_memory_bytes == (3 + 1) * 128 * (2 * 2 * 1 * 8 * 4)
    assert vllm.environments[0]["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert result.memory_parts is not None
    assert result.memory_parts.kv_cache_bytes == 2 * asked.kv_cache_memory_bytes
    assert any("split over 2 GPUs by tensor parallelism" in note for note in result.notes)
    assert set(gpus.asked) == {2}


def test_of_one_gpu_nothing_is_asked_otherwise_than_before(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeVllm().install(monkeypatch)
    for options in ({}, {"tensor_parallel": 1}):
        result = perform(checkpoint, "vllm", Device(threads=1), **options)
        assert (result.memory.per_device_bytes, result.protocol) == ((), "speed/8-5")
    assert fake.arguments[0] == fake.arguments[1]
    assert (fake.arguments[0].tensor_parallel_size, fake.arguments[0].distributed_executor_backend) == (1, None)


def test_tensorrt_llm_is_asked_to_split_the_model_over_processes(checkpoint: Path, tensorrt: VendorEngine) -> None:
    result = perform(checkpoint, "tensorrt-llm", tensor_parallel=2)
    (asked,) = tensorrt.asked("LLM")
    assert asked["tensor_parallel_size"] == 2
    assert asked["variables"]["TLLM_WORKER_USE_SINGLE_PROCESS"] is None
    assert "split over 2 GPUs by tensor parallelism, a process each" in result.notes[1]
    assert "SINGLE_PROCESS" not in result.notes[1]


def test_the_memory_of_each_gpu_is_told_without_what_was_there_before(
    checkpoint: Path, vllm: FakeVllm, gpus: Gpus
) -> None:
    memory = perform(checkpoint, "vllm", tensor_parallel=2).memory
    assert memory.per_device_bytes == (3 * 2**30, 5 * 2**30)
    assert (memory.peak_memory_bytes, memory.method) == (8 * 2**30, "cuda-devices-sampled-50ms")


def test_its_speeds_have_a_name_of_their_own_and_no_counters_of_a_single_gpu(
    checkpoint: Path, vllm: FakeVllm, gpus: Gpus
) -> None:
    result = perform(checkpoint, "vllm", tensor_parallel=2)
    assert result.protocol == "speed/8-5-tp2"
    for speed in result.speeds:
        assert speed.protocol == f"speed/8-5-tp2-b{speed.batch_size}"
        assert speed.telemetry is None
        assert speed.telemetry_absent == "2 GPUs share the model, and the counters of one are not those of all"
        assert all(bound.of.endswith(" on each of 2 GPUs") for bound in speed.bounds)


def test_each_gpu_is_held_to_its_part_of_the_work(checkpoint: Path, vllm: FakeVllm, gpus: Gpus) -> None:
    (alone,) = {
        speed.bounds[0].implied * speed.batch_size / speed.decode_tokens_per_second
        for speed in perform(checkpoint, "vllm", TWO.model_copy(update={"uuids": ("GPU-a",)})).speeds[:1]
    }
    (split,) = {
        speed.bounds[0].implied * speed.batch_size / speed.decode_tokens_per_second
        for speed in perform(checkpoint, "vllm", tensor_parallel=2).speeds[:1]
    }
    assert split == pytest.approx(alone / 2, rel=1e-3)


def test_what_all_gpus_together_have_free_is_what_a_model_may_need(
    checkpoint: Path, vllm: FakeVllm, gpus: Gpus
) -> None:
    prediction = perform(checkpoint, "vllm", tensor_parallel=2).memory_prediction
    assert prediction is not None
    assert prediction.free_bytes == 2 * 2**40
    gpus.free = prediction.needed_bytes // 2 - 1
    with pytest.raises(OutOfMemory, match="out of memory predicted"):
        perform(checkpoint, "vllm", tensor_parallel=2)


def test_a_cpu_is_no_two_gpus(checkpoint: Path, vllm: FakeVllm) -> None:
    with pytest.raises(Unsupported, match="2 GPUs are to share a model, and this is a CPU") as refused:
        perform(checkpoint, "vllm", Device(threads=1), tensor_parallel=2)
    assert refused.value.reason is Reason.DEVICE


@pytest.mark.parametrize(("backend", "option"), [("transformers", 2), ("native", 2), ("vllm", 0), ("vllm", 2.0)])
def test_other_backends_and_no_number_of_gpus_are_refused(checkpoint: Path, backend: str, option: object) -> None:
    with pytest.raises(BadRequest, match="tensor_parallel"):
        perform(checkpoint, backend, Device(threads=1), tensor_parallel=option)


class Cuda:
    """As much of `torch.cuda` as choosing a device asks."""

    def __init__(self, *uuids: str) -> None:
        self._uuids = uuids

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return len(self._uuids)

    def get_device_properties(self, place: int) -> SimpleNamespace:
        return SimpleNamespace(uuid=self._uuids[place])


@pytest.mark.parametrize(
    ("there", "named", "gpus", "words"),
    [
        (("a", "b"), ("GPU-a", "GPU-b"), 2, None),
        (("a",), ("GPU-a",), 1, None),
        (("a", "b"), ("GPU-a", "GPU-b"), 1, "2 GPUs were named, but this work uses one"),
        (("a",), ("GPU-a",), 2, "1 GPUs were named, but this work uses 2"),
        (("a", "b", "c"), ("GPU-a", "GPU-b"), 2, "sees 3 GPUs, and computes only where it sees the 2 that were named"),
        (("b", "a"), ("GPU-a", "GPU-b"), 2, "sees GPU b, and not GPU-a"),
    ],
)
def test_a_process_computes_on_the_gpus_that_were_named_and_no_others(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], named: tuple[str, ...], gpus: int, words: str | None
) -> None:
    monkeypatch.setattr(torch, "cuda", Cuda(*there))
    device = Device(kind=DeviceKind.CUDA, uuids=named)
    if words is None:
        assert loading.select_device(device, gpus) == torch.device("cuda", 0)
        assert gpu_uuids(torch.device("cuda", 0), gpus) == named
        return
    with pytest.raises(Unsupported, match=words):
        loading.select_device(device, gpus)


def test_the_peak_of_the_sum_is_no_sum_of_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    told = itertools.chain([(5, 0), (0, 4)], itertools.repeat((0, 0)))
    monkeypatch.setattr(serving_memory, "memory_of", lambda uuids: tuple(DeviceMemory(used, 0) for used in next(told)))
    monkeypatch.setattr(serving_memory, "_SAMPLE_SECONDS", 0.001)
    with PeakOfDevices(("a", "b"), (0, 0)) as peak:
        peak._stopped.wait(0.05)
    assert (peak.memory.peak_memory_bytes, peak.memory.per_device_bytes) == (5, (5, 4))


def test_what_was_in_use_before_loading_is_not_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    used = [7, 1]
    monkeypatch.setattr(serving_memory, "memory_of", lambda uuids: tuple(DeviceMemory(one, 0) for one in used))
    open_block = peaks_of_devices(("a", "b"))
    used[:] = [10, 0]
    with open_block() as peak:
        pass
    assert (peak.memory.peak_memory_bytes, peak.memory.per_device_bytes) == (3, (3, 0))


def test_the_driver_is_asked_for_each_gpu_and_its_refusal_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    memories = {"GPU-a": SimpleNamespace(used=1, free=2), "GPU-b": SimpleNamespace(used=3, free=4)}

    def handle(uuid: str) -> str:
        if uuid not in memories:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    for name, answer in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": handle,
        "nvmlDeviceGetMemoryInfo": memories.__getitem__,
    }.items():
        monkeypatch.setattr(pynvml, name, answer)
    assert memory_of(("GPU-b", "GPU-a")) == (DeviceMemory(3, 4), DeviceMemory(1, 2))
    with pytest.raises(WorkerError, match="the memory of 1 GPUs cannot be measured: NVML says"):
        memory_of(("GPU-c",))


def test_counters_of_several_gpus_are_not_sampled() -> None:
    told, why = watch(("GPU-a", "GPU-b"), lambda: pytest.fail("it was run"))
    assert told is None
    assert why is not None
    assert "2 GPUs share the model" in why
    assert device_telemetry.watch((), lambda: 0)[1] == "computed on the CPU, which has no such counters"
