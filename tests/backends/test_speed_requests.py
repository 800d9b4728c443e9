"""What a benchmark keeps beside its speeds: start-up, room for keys and values, memory, telemetry, chance."""

import itertools
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.backends.base import Backend, BatchOrder, EngineInfo, Generated, TimedRun
from harness.backends.serving_memory import ServingPeak
from harness.backends.timing import Timer
from harness.contract import BenchmarkParameters, Dtype, MemoryParts
from harness.errors import BadRequest, OutOfMemory
from harness.options import NoOptions
from harness.profiling import memory
from harness.telemetry import PeakMemory
from tests.backends import benchmark_requests
from tests.support.fake_nvml import UUID, on_its_clock, one_gpu
from tests.support.scripted_serving import Modest
from tests.support.small_checkpoints import Recorder

SHORT = benchmark_requests.SHORT | {"repeats": 4}
perform = partial(benchmark_requests.perform, backend="transformers", repeats=4)


class Scripted(Modest):
    """Decodes in the seconds it is told, and repeats the last ones."""

    def __init__(
        self, *seconds: float, step_seconds: tuple[float, ...] = (), generated: Sequence[tuple[Generated, ...]] = ((),)
    ) -> None:
        self.info = EngineInfo(Dtype.FLOAT16, "scripted", load_seconds=0.5)
        self.peak = ServingPeak(partial(PeakMemory, torch.device("cpu")))
        self.memory_parts: MemoryParts | None = None
        self.runs = 0
        self._seconds = list(seconds)
        self._step_seconds = step_seconds
        self._generated = itertools.cycle(generated)

    def run(self, batch: BatchOrder) -> TimedRun:
        self.runs += 1
        seconds = self._seconds.pop(0) if len(self._seconds) > 1 else self._seconds[0]
        counts = (batch.generate_tokens,) * batch.batch_size
        return TimedRun(counts, 0.25, seconds, self._step_seconds, next(self._generated))


def timer(engine: Scripted, gpu: str | None = None, **parameters: Any) -> Timer:
    asked = BenchmarkParameters.model_validate({"backend": "scripted", **SHORT, **parameters})
    return Timer(engine, asked, None, () if gpu is None else (gpu,))


def test_everything_beside_the_speeds_is_kept(checkpoint: Path) -> None:
    result = perform(checkpoint)
    assert result.start_up is not None
    assert result.start_up.process_seconds > 0
    assert result.start_up.load_seconds == result.load_seconds
    assert result.start_up.first_token_seconds > 0
    assert result.start_up.peak_memory_bytes is not None
    assert result.start_up.peak_memory_bytes > result.memory.peak_memory_bytes / 2
    assert result.kv_cache_tokens == 3 * 128
    prediction, parts = result.memory_prediction, result.memory_parts
    assert prediction is not None
    assert prediction.free_bytes is not None
    assert prediction.kv_cache_bytes == 3 * 128 * 2 * 2 * 2 * 8 * 4
    assert parts is not None
    assert parts.weight_bytes == pytest.approx(prediction.weight_bytes, rel=0.01)
    assert parts.kv_cache_bytes == 3 * (8 + 5 - 1) * 2 * 2 * 2 * 8 * 4
    for speed in result.speeds:
        assert speed.noise_floor is not None
        assert speed.interval is not None
        assert speed.interval.low <= speed.decode_tokens_per_second <= speed.interval.high
        assert speed.time_to_first_token_seconds == pytest.approx(
            speed.batch_size * 8 / speed.prefill_tokens_per_second
        )
        assert speed.token_latency is not None
        assert speed.token_latency.steps == 4 * 4
        assert (speed.telemetry, speed.telemetry_absent) == (None, "computed on the CPU, which has no such counters")


def test_a_list_of_batch_sizes_leaves_each_ones_protocol_as_it_is() -> None:
    alone = timer(Scripted(1.0), batch_sizes=(8,)).measure(Recorder().reporter)
    among = timer(Scripted(1.0), batch_sizes=(1, 8, 32)).measure(Recorder().reporter)
    assert [speed.protocol for speed in among] == ["speed/8-5-b1", "speed/8-5-b8", "speed/8-5-b32"]
    assert alone[0].protocol == among[1].protocol


def test_warming_up_ends_when_runs_get_no_faster() -> None:
    engine = Scripted(9.0, 5.0, 2.0, 2.0)
    (speed,) = timer(engine, batch_sizes=(1,)).measure(Recorder().reporter)
    assert (speed.warmup_runs, engine.runs) == (4, 4 + 4)
    assert set(speed.samples) == {4 / 2.0}


def test_warming_up_is_bounded_and_says_so() -> None:
    engine = Scripted(*(0.5**number for number in range(5)), 1.0)
    timed = timer(engine, batch_sizes=(1,), warmup=1)
    (speed,) = timed.measure(Recorder().reporter)
    assert speed.warmup_runs == 5
    assert timed.notes == ("batch 1 was still getting faster after 5 warm-up runs",)


@pytest.mark.parametrize(("repeats", "is_known"), [(3, False), (4, True)])
def test_a_noise_floor_of_too_few_runs_is_absent_with_the_reason(repeats, is_known) -> None:
    (speed,) = timer(Scripted(1.0), batch_sizes=(1,), repeats=repeats).measure(Recorder().reporter)
    assert (speed.noise_floor is not None, speed.noise_floor_absent is None) == (is_known, is_known)
    if not is_known:
        assert speed.noise_floor_absent.startswith("3 timed runs, and it takes 4")


def test_times_between_tokens_are_absent_with_the_reason_where_the_library_does_not_tell_them() -> None:
    (speed,) = timer(Scripted(1.0), batch_sizes=(1,)).measure(Recorder().reporter)
    assert (speed.token_latency, speed.token_latency_absent) == (None, "scripted returns when all tokens are there")
    (told,) = timer(Scripted(1.0, step_seconds=(0.1, 0.4)), batch_sizes=(1,)).measure(Recorder().reporter)
    assert told.token_latency is not None
    assert (told.token_latency.p50_seconds, told.token_latency.p99_seconds) == (0.1, 0.4)
    assert told.token_latency_absent is None


@pytest.mark.parametrize(
    ("generated", "repeatable"),
    [([((1, 2),)], True), ([((1, 2),), ((1, 3),)], False), ([("a",), ("b",)], False), ([()], None)],
)
def test_an_engine_is_repeatable_where_every_timed_run_generated_the_same(
    generated: list[tuple[Generated, ...]], repeatable: bool | None
) -> None:
    (speed,) = timer(Scripted(1.0, generated=generated), batch_sizes=(1,)).measure(Recorder().reporter)
    assert speed.repeatable is repeatable


def test_telemetry_comes_from_runs_that_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", one_gpu())
    on_its_clock(monkeypatch)
    engine = Scripted(1.0)
    (speed,) = timer(engine, UUID, batch_sizes=(2,)).measure(Recorder().reporter)
    assert speed.telemetry is not None
    assert engine.runs == 2 + 4 + 20
    assert speed.telemetry.energy_joules_per_token == pytest.approx(64 / (20 * 2 * 5))
    assert len(speed.samples) == 4


def test_what_cannot_fit_is_refused_before_the_backend_is_asked(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_available_bytes", lambda: 100_000)
    unserved = Backend(NoOptions, lambda _: pytest.fail("the model was loaded"))
    monkeypatch.setattr("harness.backends.transformers.BACKEND", unserved)
    with pytest.raises(OutOfMemory, match="out of memory predicted"):
        perform(checkpoint)


def test_room_for_keys_and_values_can_be_asked_for_and_must_hold_the_largest_batch(checkpoint: Path) -> None:
    assert perform(checkpoint, kv_tokens=39, repeats=1).kv_cache_tokens == 39
    with pytest.raises(BadRequest, match="3 sequences of 13 tokens do not fit into keys and values for 38 tokens"):
        perform(checkpoint, kv_tokens=38)
