"""A whole benchmark: what is counted, what is kept, and what is refused."""

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from harness.backends import run
from harness.backends.base import Backend, BatchOrder, EngineInfo, ServeOrder, TimedRun
from harness.backends.serving_memory import ServingPeak
from harness.checkpoint import read_config
from harness.contract import (
    BenchmarkParameters,
    BenchmarkRequest,
    BenchmarkResult,
    Device,
    Dtype,
    MemoryParts,
    Quantization,
    Reason,
    Sparsity,
)
from harness.errors import BadRequest, Unsupported, WorkerError
from harness.options import NoOptions
from harness.telemetry import PeakMemory
from tests.support.scripted_serving import Modest
from tests.support.small_checkpoints import Recorder, publish_checkpoint, small_model

SCRIPTED_IMAGE = """
name = "scripted"
summary = "An engine that takes the times it is told"
operations = ["benchmark"]
devices = ["cpu"]

[[backends]]
name = "scripted"
module = "scripted_backend"
summary = "Scripted"
formats = ["dense"]
"""
SHORT = {"prompt_tokens": 8, "generate_tokens": 5, "batch_sizes": (1, 3), "warmup": 1, "repeats": 3}


class ScriptedEngine(Modest):
    """Takes the times it is told, one run after the other."""

    def __init__(self, seconds: list[float], *, tokens_short: int = 0) -> None:
        self.info = EngineInfo(Dtype.FLOAT16, "scripted", load_seconds=0.5, notes=("scripted",))
        self.peak = ServingPeak(partial(PeakMemory, torch.device("cpu")))
        self.memory_parts: MemoryParts | None = None
        self.asked: list[BatchOrder] = []
        self._seconds = iter(seconds)
        self._tokens_short = tokens_short

    def run(self, batch: BatchOrder) -> TimedRun:
        self.asked.append(batch)
        generated = (batch.generate_tokens,) * (batch.batch_size - 1)
        return TimedRun((*generated, batch.generate_tokens - self._tokens_short), 0.25, next(self._seconds))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return publish_checkpoint(tmp_path / "model", small_model("llama"))


def perform(checkpoint: Path, recorder: Recorder | None = None, **parameters: Any) -> BenchmarkResult:
    request = BenchmarkRequest(
        id="test",
        device=Device(threads=1),
        inputs={"checkpoint": str(checkpoint)},
        output=str(checkpoint.parent),
        parameters=BenchmarkParameters(**{"backend": "transformers", **SHORT, **parameters}),
    )
    return run(request, (recorder or Recorder()).reporter)


def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: ScriptedEngine) -> None:
    @contextmanager
    def serve(order: ServeOrder[NoOptions]) -> Iterator[ScriptedEngine]:
        with engine.peak:
            yield engine

    module = ModuleType("scripted_backend")
    module.__dict__["BACKEND"] = Backend(NoOptions, serve)
    monkeypatch.setitem(sys.modules, "scripted_backend", module)
    described = tmp_path / "image.toml"
    described.write_text(SCRIPTED_IMAGE, encoding="utf-8")
    monkeypatch.setenv("LLMCBENCH_IMAGE", str(described))


@pytest.mark.usefixtures("warm")
def test_every_batch_size_is_warmed_up_and_repeated(checkpoint: Path) -> None:
    recorder = Recorder()
    result = perform(checkpoint, recorder)
    assert [speed.batch_size for speed in result.speeds] == [1, 3]
    for speed in result.speeds:
        assert len(speed.samples) == 3
        assert speed.decode_tokens_per_second == statistics.median(speed.samples)
        assert speed.prefill_tokens_per_second > 0
    done = [event["done"] for event in recorder.events("progress")]
    assert done == sorted(done)
    assert {event["total"] for event in recorder.events("progress")} == {done[-1]}
    assert {event["unit"] for event in recorder.events("progress")} == {"run"}
    assert result.protocol == "speed/8-5"
    assert [speed.protocol for speed in result.speeds] == ["speed/8-5-b1", "speed/8-5-b3"]
    assert result.memory.peak_memory_bytes > 0
    assert result.notes == ()


def test_speed_counts_the_whole_batch_and_leaves_the_first_token_to_the_prefill(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine([99.0, 99.0, 1.0, 2.0, 4.0])
    install(monkeypatch, tmp_path, engine)
    result = perform(checkpoint, backend="scripted", batch_sizes=(3,), seed=11)
    (speed,) = result.speeds
    assert speed.samples == (12.0, 6.0, 3.0)
    assert speed.decode_tokens_per_second == 6.0
    assert speed.prefill_tokens_per_second == 3 * 8 / 0.25
    assert engine.asked == [BatchOrder(batch_size=3, prompt_tokens=8, generate_tokens=5, seed=11)] * 5
    assert (result.load_seconds, result.dtype_reason, result.notes) == (0.5, "scripted", ("scripted",))


def test_what_an_engine_says_of_itself_is_kept_each_under_its_own_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine([1.0] * 5)
    engine.info = EngineInfo(
        Dtype.FLOAT16, "so", load_seconds=0.5, notes=("a", "b"), compile_seconds=7, dequantized=True
    )
    engine.memory_parts = MemoryParts(weight_bytes=1, kv_cache_bytes=2, activation_bytes=3, overhead_bytes=4)
    install(monkeypatch, tmp_path, engine)
    result = perform(checkpoint, backend="scripted", batch_sizes=(3,))
    assert (result.backend, result.dtype, result.dtype_reason) == ("scripted", Dtype.FLOAT16, "so")
    assert (result.notes, result.dequantized, result.memory_parts) == (("a", "b"), True, engine.memory_parts)
    assert result.start_up is not None
    start_up = result.start_up
    assert (start_up.load_seconds, start_up.compile_seconds, start_up.first_token_seconds) == (0.5, 7, 0.25)
    assert result.memory == engine.peak.memory


def test_a_backend_that_stops_early_gets_no_speed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, ScriptedEngine([1.0] * 4, tokens_short=1))
    with pytest.raises(WorkerError, match=r"generated \(5, 4\) tokens, not 5 in each of 2 sequences"):
        perform(checkpoint, backend="scripted", batch_sizes=(2,))


@pytest.mark.usefixtures("warm")
def test_compression_that_is_served_densely_is_said_so(tmp_path: Path) -> None:
    checkpoint = publish_checkpoint(
        tmp_path / "compressed",
        small_model("llama"),
        sparsity=Sparsity(pattern="2:4", target=0.5, measured=0.5),
        quantization=Quantization(weight_bits=8, activation_bits=8, simulated=True),
    )
    zeros, quantization = perform(checkpoint, batch_sizes=(1,), repeats=1).notes
    assert "50.0% zeros (2:4) bring no speed" in zeros
    assert "quantization brings no speed" in quantization


def test_an_unknown_backend_is_unsupported_and_the_nearest_is_named(checkpoint: Path) -> None:
    with pytest.raises(Unsupported, match=r"no backend 'transformer'; did you mean 'transformers'\?") as refusal:
        perform(checkpoint, backend="transformer")
    assert refusal.value.reason is Reason.BACKEND


def test_more_tokens_than_the_models_context_are_refused_before_anything_is_loaded(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = ScriptedEngine([])
    install(monkeypatch, tmp_path, engine)
    context = read_config(checkpoint)["max_position_embeddings"]
    with pytest.raises(BadRequest, match=rf"{context} prompt and 5 generated tokens exceed .* context of {context}"):
        perform(checkpoint, backend="scripted", prompt_tokens=context)
    assert engine.asked == []
