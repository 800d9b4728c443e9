"""What of a GPU's memory belongs to serving, and what to getting ready for it. The allocator's counters are faked."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from harness.backends import serving_memory
from harness.backends.base import BatchOrder, EngineInfo, TimedRun
from harness.backends.native import fused_blocks
from harness.backends.serving_memory import ServingPeak, peaks_of_everything
from harness.backends.timing import Timer
from harness.contract import BenchmarkParameters, Dtype, MemoryParts
from harness.device_telemetry import DeviceMemory
from harness.telemetry import PeakMemory
from tests.support.scripted_serving import Modest
from tests.support.small_checkpoints import Recorder, small_model

GPU = torch.device("cuda", 0)
MEGABYTE = 10**6
SHARED, PRIVATE = (0, 0), (0, 1)


class Allocator:
    """The counters of torch's allocator, in bytes. Segments are (device, pool, whole size, given out of it)."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self.segments: list[tuple[int, tuple[int, int], int, int]] = []

    def reset_peak(self, _device: torch.device) -> None:
        self.peak = self.now

    def read_peak(self, _device: torch.device) -> int:
        return self.peak

    def snapshot(self) -> list[dict[str, Any]]:
        return [
            {"device": device, "segment_pool_id": pool, "total_size": whole, "allocated_size": given}
            for device, pool, whole, given in self.segments
        ]

    def keep(self, count: int) -> None:
        self.now += count
        self.peak = max(self.peak, self.now)

    @contextmanager
    def borrow(self, count: int) -> Iterator[None]:
        self.keep(count)
        yield
        self.now -= count


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    fake = Allocator()
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", fake.reset_peak)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", fake.read_peak)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", fake.snapshot)
    return fake


class CompilingEngine(Modest):
    """Compiles in the first run of each batch size, with much memory, and leaves a captured graph behind."""

    def __init__(self, allocator: Allocator, peak: ServingPeak) -> None:
        self.info = EngineInfo(Dtype.FLOAT16, "scripted", load_seconds=0.5)
        self.peak = peak
        self.memory_parts: MemoryParts | None = None
        self._allocator = allocator
        self._compiled: set[int] = set()

    def run(self, batch: BatchOrder) -> TimedRun:
        batch_size = batch.batch_size
        if batch_size not in self._compiled:
            self._compiled.add(batch_size)
            with self._allocator.borrow(9000 * MEGABYTE // batch_size):
                pass
            self._allocator.segments.append((0, PRIVATE, 20 * MEGABYTE, 0))
        with self._allocator.borrow(batch_size * MEGABYTE):
            return TimedRun((batch.generate_tokens,) * batch_size, 0.25, 1.0)


def test_compiling_is_start_up_and_what_graphs_keep_is_serving(allocator: Allocator) -> None:
    asked = BenchmarkParameters(backend="scripted", prompt_tokens=8, generate_tokens=5, batch_sizes=(2, 4), repeats=2)
    with ServingPeak(partial(PeakMemory, GPU)) as peak:
        allocator.keep(500 * MEGABYTE)
        Timer(CompilingEngine(allocator, peak), asked, None, gpus=()).measure(Recorder().reporter)
        with allocator.borrow(7000 * MEGABYTE):
            pass
    assert peak.memory.peak_memory_bytes == (500 + 4 + 2 * 20) * MEGABYTE
    assert peak.memory.method == "cuda-allocator"
    assert peak.start_up_bytes == (500 + 4500) * MEGABYTE


def test_only_this_devices_graphs_count_and_what_is_given_out_of_their_pools_counts_once(allocator: Allocator) -> None:
    allocator.segments = [(0, PRIVATE, 50, 30), (0, SHARED, 1000, 100), (1, PRIVATE, 400, 0)]
    allocator.keep(130)
    with PeakMemory(GPU) as peak:
        allocator.keep(5)
    assert peak.memory.peak_memory_bytes == 130 + 5 + 20


def test_an_engine_that_never_serves_has_the_peak_of_getting_ready(allocator: Allocator) -> None:
    with ServingPeak(partial(PeakMemory, GPU)) as peak, allocator.borrow(300):
        pass
    assert (peak.memory.peak_memory_bytes, peak.start_up_bytes) == (300, None)


def test_a_run_that_fails_leaves_the_next_engine_measurable(allocator: Allocator) -> None:
    peak = ServingPeak(partial(PeakMemory, GPU))
    with pytest.raises(ValueError, match="on purpose"), peak, peak.serving():
        raise ValueError("on purpose")
    with ServingPeak(partial(PeakMemory, GPU)) as following, following.serving():
        allocator.keep(70)
    assert following.memory.peak_memory_bytes == 70


def test_a_drivers_count_is_taken_from_before_loading_on(monkeypatch: pytest.MonkeyPatch) -> None:
    used = 400
    monkeypatch.setattr(serving_memory, "_used_bytes", lambda _device: used)
    with ServingPeak(peaks_of_everything(GPU)) as peak:
        used = 900
        with peak.serving():
            used = 950
    assert (peak.memory.peak_memory_bytes, peak.start_up_bytes) == (550, 500)
    assert peak.memory.method == "cuda-device-sampled-50ms"


def test_joining_linears_frees_a_blocks_own_before_the_next_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a model lies in memory twice, for two thirds of its weights at LLaMA-2-7B's shape."""
    model = small_model("llama")
    separate = {
        name: weakref.ref(part) for name, part in model.named_modules() if name.endswith(("q_proj", "gate_proj"))
    }
    assert len(separate) == 4
    alive: list[int] = []
    join = fused_blocks._joined

    def counting(linears: list[nn.Linear], names: tuple[str, ...]) -> nn.Linear:
        alive.append(sum(part() is not None for part in separate.values()))
        return join(linears, names)

    monkeypatch.setattr(fused_blocks, "_joined", counting)
    assert fused_blocks.fuse(model) == 2
    assert alive == [4, 4, 2, 2], "the first block's are gone when the second one's turn comes"


def test_the_peak_of_several_gpus_is_of_their_sum_at_once_and_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([(10, 20), (10, 20), (40, 5), (15, 50)])
    names: list[tuple[str, ...]] = []

    def memory_of(uuids: tuple[str, ...]) -> tuple[DeviceMemory, ...]:
        names.append(uuids)
        return tuple(DeviceMemory(used_bytes=used, free_bytes=1) for used in next(told))

    monkeypatch.setattr(serving_memory, "memory_of", memory_of)
    monkeypatch.setattr(serving_memory, "_SAMPLE_SECONDS", 3600.0)
    block = serving_memory.peaks_of_devices(("GPU-a", "GPU-b"))()
    with block:
        block._look()
    assert block.memory.per_device_bytes == (30, 30)
    assert block.memory.peak_memory_bytes == 35, "what was freed before is not held beside what came later"
    assert block.memory.method == "cuda-devices-sampled-50ms"
    assert names == [("GPU-a", "GPU-b")] * 4


@pytest.mark.gpu
def test_a_captured_graphs_temporaries_count_while_it_is_replayed() -> None:
    count = 64 * 2**20
    x = torch.ones(count, device=GPU)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with PeakMemory(GPU) as capturing, torch.cuda.graph(graph):
        x.copy_((x + 1) * 0.5)
    with PeakMemory(GPU) as replaying:
        graph.replay()
        torch.cuda.synchronize()
    assert replaying.memory.peak_memory_bytes >= 2 * x.nbytes
    assert replaying.memory.peak_memory_bytes <= capturing.memory.peak_memory_bytes + 2**21
