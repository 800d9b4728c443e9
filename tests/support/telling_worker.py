"""A worker stand-in that fills every field of what it measured, each with a number of its own, also by variant.

What it says agrees with itself, as a real worker's results do: parts add up, rates are counts over seconds.
"""

import statistics
from pathlib import Path

from harness.contract import (
    ARTIFACT_NAME,
    DESCRIPTOR_NAME,
    BenchmarkRequest,
    BenchmarkResult,
    Bound,
    CompressResult,
    DeviceTelemetry,
    EvaluateRequest,
    EvaluateResult,
    EvaluationCost,
    Extent,
    LayerReport,
    MedianInterval,
    Memory,
    MemoryParts,
    MemoryPrediction,
    ProfileResult,
    ProtocolDetails,
    Speed,
    StartUp,
    TokenCheck,
    TokenLatency,
    WorkRequest,
    WorkResult,
    describe_tree,
)
from tests.support.stage_workers import is_pruned, keeping_worker, write_descriptor


def telling_worker(request: WorkRequest, output: Path) -> WorkResult:
    result = keeping_worker(request, output)
    if isinstance(result, CompressResult):
        return _compressed(result, output / ARTIFACT_NAME)
    if isinstance(result, EvaluateResult) and isinstance(request, EvaluateRequest):
        return _evaluated(result, is_pruned(request))
    if isinstance(result, BenchmarkResult) and isinstance(request, BenchmarkRequest):
        return _timed(result, request, is_pruned(request))
    return _profiled(result, is_pruned(request)) if isinstance(result, ProfileResult) else result


def _compressed(result: CompressResult, folder: Path) -> CompressResult:
    """The pruned checkpoint has a file more, so that it is not of the size of the dense one."""
    (folder / "README.md").write_text("pruned by a test's worker", encoding="utf-8")
    files = describe_tree(folder, leave_out=frozenset({DESCRIPTOR_NAME}))
    artifact = write_descriptor(folder, result.artifact.model_copy(update={"files": files, "notes": ("half is zero",)}))
    cost = result.cost.model_copy(
        update={
            "load_seconds": 2.1,
            "compress_seconds": 40.2,
            "save_seconds": 3.3,
            "recovery_seconds": 20.4,
            "resumed_blocks": 5,
            "memory": Memory(
                peak_memory_bytes=700 * 2**20, method="peak-rss", per_device_bytes=(300 * 2**20, 400 * 2**20)
            ),
            "bounds": (_bound("weights of the blocks read", 71, "bytes/s"),),
        }
    )
    layers = (
        LayerReport(name="layers.0.q_proj", sparsity=0.51, error=0.125, seconds=1.5),
        LayerReport(name="layers.1.q_proj", sparsity=0.49, error=0.625, seconds=2.5),
        LayerReport(name="layers.2.q_proj", sparsity=0.52, error=0.375, seconds=3.5),
    )
    return result.model_copy(update={"artifact": artifact, "cost": cost, "layers": layers})


def _evaluated(result: EvaluateResult, pruned: bool) -> EvaluateResult:
    seconds, tokens, operations = (8.0, 7200, 5.6e12) if pruned else (9.0, 7650, 6.3e12)
    cost = EvaluationCost(
        prepare_seconds=0.7 + pruned,
        load_seconds=1.2 + pruned,
        score_seconds=seconds,
        scored_items=result.items - 6 - pruned,
        resumed_items=6 + pruned,
        asked_tokens=9000 + pruned,
        computed_tokens=tokens,
        padding_tokens=330 + pruned,
        items_per_second=(result.items - 6 - pruned) / seconds,
        tokens_per_second=tokens / seconds,
        model_operations=int(operations),
        model_operations_per_second=operations / seconds,
        parameter_count=134_515_008 - pruned,
        processes=2 + pruned,
        bounds=(_bound("matrix products", 101 + pruned, "operations/s"),),
    )
    return result.model_copy(
        update={
            "truncated_items": 3 + pruned,
            "wall_seconds": 11.5 + pruned,
            "details": ProtocolDetails(scoring="summed", shots=4 + pruned),
            "cost": cost,
            "notes": (f"{result.task} of {'pruned' if pruned else 'dense'} weights",),
        }
    )


def _profiled(result: ProfileResult, pruned: bool) -> ProfileResult:
    memory, parts, predicted = _memory(4096, pruned)
    return result.model_copy(
        update={
            "memory": memory,
            "memory_parts": parts,
            "memory_prediction": predicted,
            "dequantized": False,
            "kv_cache_bytes": 2200 + pruned,
            "notes": (f"profile of {'pruned' if pruned else 'dense'} weights",),
        }
    )


def _memory(unit: int, pruned: bool) -> tuple[Memory, MemoryParts, MemoryPrediction]:
    parts = MemoryParts(
        weight_bytes=50 * unit - 8000 * pruned,
        kv_cache_bytes=7 * unit + pruned,
        activation_bytes=11 * unit + 2 * pruned,
        overhead_bytes=23 * unit + 3 * pruned,
    )
    held = (parts.weight_bytes, parts.kv_cache_bytes, parts.activation_bytes, parts.overhead_bytes)
    predicted = MemoryPrediction(
        weight_bytes=49 * unit - 8000 * pruned,
        kv_cache_bytes=6 * unit + pruned,
        activation_bytes=13 * unit + pruned,
        free_bytes=3000 * unit + pruned,
    )
    each = (33 * unit + pruned, 35 * unit + 2 * pruned)
    peak = Memory(peak_memory_bytes=sum(one or 0 for one in held), method="peak-rss", per_device_bytes=each)
    return peak, parts, predicted


def _timed(result: BenchmarkResult, request: BenchmarkRequest, pruned: bool) -> BenchmarkResult:
    memory, parts, predicted = _memory(8192, pruned)
    start_up = StartUp(
        process_seconds=3.1 + pruned,
        load_seconds=1.6 + pruned,
        compile_seconds=5.2 + pruned,
        first_token_seconds=0.9 + pruned,
        peak_memory_bytes=2**30 + pruned * 2**28,
    )
    return result.model_copy(
        update={
            "speeds": tuple(
                _speed(size, request.parameters.prompt_tokens, pruned) for size in request.parameters.batch_sizes
            ),
            "load_seconds": 1.4 + pruned,
            "start_up": start_up,
            "memory": memory,
            "memory_parts": parts,
            "memory_prediction": predicted,
            "dequantized": False,
            "kv_cache_tokens": 256 + pruned,
            "notes": (f"served as {'pruned' if pruned else 'dense'} weights",),
        }
    )


def _speed(size: int, prompt_tokens: int, pruned: bool) -> Speed:
    samples = tuple(size * rate for rate in ((31.0, 29.0, 34.0) if pruned else (20.0, 21.0, 24.0)))
    prefill = size * (640.0 if pruned else 512.0)
    return Speed(
        batch_size=size,
        decode_tokens_per_second=statistics.median(samples),
        samples=samples,
        prefill_tokens_per_second=prefill,
        protocol=f"speed/1-1-b{size}",
        interval=MedianInterval(low=min(samples), high=max(samples), coverage=0.75 + 0.01 * pruned),
        noise_floor=0.04 + 0.01 * pruned,
        time_to_first_token_seconds=size * prompt_tokens / prefill,
        token_latency=TokenLatency(
            p50_seconds=0.032 + 0.001 * pruned,
            p90_seconds=0.045 + 0.001 * pruned,
            p99_seconds=0.081 + 0.001 * pruned,
            steps=381 + pruned,
        ),
        warmup_runs=2 + pruned,
        greedy_tokens=(5 + pruned, 8 + pruned),
        repeatable=not pruned,
        bounds=(
            _bound("weights read", 201 + pruned + size, "bytes/s"),
            _bound("matrix products of the prompt", 301 + pruned + size, "operations/s"),
        ),
        token_check=TokenCheck(compared=60 + pruned, differing=5 + pruned, largest_gap_nats=0.001 + 0.001 * pruned),
        telemetry=_telemetry(size, pruned),
    )


def _telemetry(size: int, pruned: bool) -> DeviceTelemetry:
    more = size + 10 * pruned

    def extent(median: float) -> Extent:
        return Extent(minimum=median - 11 + more, median=median + more, maximum=median + 17 + more)

    return DeviceTelemetry(
        driver="550.1",
        device_uuid="GPU-1",
        samples=70 + more,
        seconds=6.5 + more,
        sm_clock_mhz=extent(1700),
        memory_clock_mhz=extent(2600),
        power_watts=extent(500),
        temperature_celsius=extent(50),
        memory_used_bytes=9 * 2**30 + more,
        throttle_reasons={"sw_power_cap": 40 + more},
        other_processes=more,
        ecc_enabled=pruned,
        energy_joules_per_token=2.5 + more,
        energy_joules=4000.5 + more,
        power_limit_watts=700 + more,
        bounds=(_bound("energy by the power limit", 401 + more, "J"),),
    )


def _bound(of: str, implied: float, unit: str) -> Bound:
    return Bound(of=of, implied=implied, possible=2 * implied, unit=unit)
