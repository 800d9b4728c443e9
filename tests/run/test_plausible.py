"""Times and memory beyond what the host saw of a worker, or beyond what there is, are refused with both numbers."""

from pathlib import Path

import pytest

from harness.contract import (
    BenchmarkParameters,
    BenchmarkResult,
    Bound,
    CheckpointDescriptor,
    CheckpointFormat,
    CompressionCost,
    CompressParameters,
    CompressResult,
    Device,
    DeviceKind,
    Dtype,
    EvaluateParameters,
    EvaluateResult,
    ImageDescription,
    LayerReport,
    Memory,
    Operation,
    Parameters,
    Setting,
    Speed,
)
from harness.contract.measurement import MemoryParts
from harness.contract.result import Result
from orchestrator.figures.checking import Kept, check
from orchestrator.figures.items_file import Contradiction
from orchestrator.host.gpus import Gpu
from orchestrator.host.memory import machine_bytes
from orchestrator.images.image import Image
from orchestrator.run import plausible
from orchestrator.run.plausible import implausible
from orchestrator.runtime.base import Completed, Ending, Invocation, Lifetime
from tests.run.test_verdicts import COST, RESULT

SMALL = Memory(peak_memory_bytes=1000, method="peak-rss")
COMPRESSION = CompressionCost(load_seconds=2, compress_seconds=5, save_seconds=1, recovery_seconds=2, memory=SMALL)
COMPRESS = CompressParameters(method="wanda", setting=Setting.parse("50%"))
BENCHMARK = BenchmarkParameters(backend="b", batch_sizes=(2,), generate_tokens=11)
TEN_SECONDS = Lifetime(10.0)


def compressed(layers: tuple[LayerReport, ...] = (), **changed: object) -> CompressResult:
    made = CheckpointDescriptor(
        format=CheckpointFormat.DENSE,
        dtype=Dtype.BFLOAT16,
        architecture="LlamaForCausalLM",
        parameter_count=10,
        source="dir:x",
        files={},
    )
    return CompressResult(artifact=made, cost=COMPRESSION.model_copy(update=changed), layers=layers)


def timed(memory: Memory = SMALL, parts: MemoryParts | None = None, **changed: object) -> BenchmarkResult:
    """Two runs of ten steps of a batch of 2, two seconds each, and two seconds to load."""
    speed = Speed(batch_size=2, decode_tokens_per_second=10, samples=(10, 10), prefill_tokens_per_second=1)
    found = BenchmarkResult(
        backend="b",
        protocol="p",
        speeds=(speed,),
        load_seconds=2,
        memory=memory,
        memory_parts=parts,
        dtype=Dtype.FLOAT32,
        dtype_reason="r",
    )
    return found.model_copy(update=changed)


def evaluated(**changed: object) -> EvaluateResult:
    return RESULT.model_copy(update={"cost": COST} | changed)


def found(
    folder: Path, parameters: Parameters, result: Result, lifetime: Lifetime | None, device: Device | None = None
) -> str | None:
    operation = Operation(result.operation)
    image = Image(folder, ImageDescription(name="i", summary="s", operations=(operation,), devices=(DeviceKind.CPU,)))
    asked = Invocation(image, operation, parameters, folder, "s", "r", device=device or Device())
    return implausible(asked, Completed(Ending.EXITED, 0, 1.0, None, lifetime=lifetime), result)


def test_what_took_no_longer_than_the_process_was_there_stands(tmp_path: Path) -> None:
    assert found(tmp_path, COMPRESS, compressed(), TEN_SECONDS) is None
    assert found(tmp_path, BENCHMARK, timed(), Lifetime(6.0)) is None
    assert found(tmp_path, EvaluateParameters(task="t"), evaluated(), Lifetime(5.0)) is None
    assert found(tmp_path, BENCHMARK, timed(), None) is None, "where no process was, nothing was seen"


@pytest.mark.parametrize("part", ["load_seconds", "compress_seconds", "save_seconds", "recovery_seconds"])
def test_each_part_of_a_compression_counts_in_what_the_process_lived(tmp_path: Path, part: str) -> None:
    longer = {part: getattr(COMPRESSION, part) + 1}
    said = found(tmp_path, COMPRESS, compressed(**longer), TEN_SECONDS)
    assert said is not None
    assert part in said
    assert said.endswith("are 11 s, and its process was there for 10 s")


def test_of_a_compression_that_went_on_the_earlier_attempts_time_is_not_this_process_s(tmp_path: Path) -> None:
    result = compressed(resumed_blocks=3, compress_seconds=500)
    assert found(tmp_path, COMPRESS, result, Lifetime(10.0, progress_seconds=9.9)) is None
    assert found(tmp_path, COMPRESS, result, Lifetime(4.0)) is not None


def test_a_compression_is_no_shorter_than_it_told_of_progress(tmp_path: Path) -> None:
    result = compressed(compress_seconds=0.5)
    assert found(tmp_path, COMPRESS, result, Lifetime(100.0, progress_seconds=6.0)) is None
    said = found(tmp_path, COMPRESS, result, Lifetime(100.0, progress_seconds=60.0))
    assert said is not None
    assert said.endswith("are 5.5 s, and it told of progress for 60 s")


def test_no_layer_takes_longer_than_the_compression(tmp_path: Path) -> None:
    layers = (LayerReport(name="fits", seconds=5), LayerReport(name="layers.1", seconds=6))
    assert found(tmp_path, COMPRESS, compressed(layers), TEN_SECONDS) == "layers.1 took 6 s of 5 s"


@pytest.mark.parametrize("changed", [{"load_seconds": 3.0}, {"speeds": (*timed().speeds, *timed().speeds)}])
def test_the_runs_of_a_speed_and_its_loading_fit_into_the_process(tmp_path: Path, changed: dict[str, object]) -> None:
    said = found(tmp_path, BENCHMARK, timed(**changed), Lifetime(5.5))
    assert said is not None
    assert "the timed runs of batch 2" in said


def test_an_evaluation_takes_no_longer_than_its_process(tmp_path: Path) -> None:
    parameters = EvaluateParameters(task="t")
    assert found(tmp_path, parameters, evaluated(), Lifetime(4.0)) == (
        "load_seconds, score_seconds are 5 s, and its process was there for 4 s"
    )
    assert found(tmp_path, parameters, evaluated(wall_seconds=6.0, cost=None), Lifetime(4.0)) == (
        "wall_seconds is 6 s, and its process was there for 4 s"
    )


@pytest.mark.parametrize("part", sorted(MemoryParts.model_fields.keys() - {"absent"}))
def test_no_memory_is_larger_than_the_machine(tmp_path: Path, part: str) -> None:
    parts = MemoryParts.model_validate({part: machine_bytes() + 1})
    assert found(tmp_path, BENCHMARK, timed(parts=parts), None) == (
        f"memory_parts.{part} is {machine_bytes() + 1} bytes, and this machine has {machine_bytes()}"
    )
    larger = Memory(peak_memory_bytes=machine_bytes() + 1, method="peak-rss-sampled-10ms")
    assert found(tmp_path, BENCHMARK, timed(larger), None) is not None
    assert found(tmp_path, COMPRESS, compressed(memory=larger), None) is not None


def test_no_memory_of_a_device_is_larger_than_what_its_driver_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = (Gpu("GPU-1", "H200", 2000, None), Gpu("GPU-2", "H200", None, None))
    monkeypatch.setattr(plausible, "find_gpus", lambda: there)

    def said(uuid: str, size: int) -> str | None:
        device = Device(kind=DeviceKind.CUDA, uuids=(uuid,))
        memory = Memory(peak_memory_bytes=size, method="cuda-allocator")
        return found(tmp_path, BENCHMARK, timed(memory), None, device)

    assert said("GPU-1", 2000) is None
    assert said("GPU-1", 2001) == "peak_memory_bytes is 2001 bytes, and the device has 2000"
    assert said("GPU-2", 2001) is None, "its driver does not tell"
    assert said("GPU-3", 2001) is None, "no driver knows it"


def test_a_bound_that_a_worker_passed_itself_is_no_result(tmp_path: Path) -> None:
    passed = Bound(of="reading", implied=200, possible=100, unit="bytes/s")
    kept = Kept(tmp_path, {})
    check(compressed(bounds=(passed.model_copy(update={"possible": 199}),)), kept)
    speed = timed().speeds[0].model_copy(update={"bounds": (passed,)})
    for result in (compressed(bounds=(passed,)), timed(speeds=(speed,))):
        with pytest.raises(Contradiction, match="reading: 200 bytes/s are more than the 100 that were possible"):
            check(result, kept)
