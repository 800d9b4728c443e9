"""A result's times and memory, held against what the host saw of the worker and against what this machine has.

A time cannot be longer than the process was there; what a compression took in all cannot be shorter than it told of
progress. No peak is larger than the memory that there is. The runs of a speed took their time one after another.
Bounds that hang on the device (rates of reading and multiplying) are measured in the worker: `harness.physics`.
"""

from collections.abc import Iterator
from typing import Any

from harness.contract import (
    BOUND_GRACE,
    BenchmarkResult,
    CompressResult,
    EvaluateResult,
    FidelityResult,
    ProfileResult,
    Result,
    StatesResult,
)
from harness.contract.result import CompressionCost
from orchestrator.host.gpus import find_gpus
from orchestrator.host.memory import machine_bytes
from orchestrator.runtime.base import Completed, Invocation, Lifetime

_SLACK_SECONDS = 1.0
"""How much later than it was said an event may be heard."""
_OF_HOST = "peak-rss"
_OF_GPU = "cuda-allocator"
"""Begins the method of a memory that is the host's, and is that of a GPU's."""


def implausible(asked: Invocation, completed: Completed, result: Result) -> str | None:
    """The first figure that cannot be, in a clause with both numbers; None where there is none."""
    found = [] if completed.lifetime is None else [*_times(asked, completed.lifetime, result)]
    return next(iter([*found, *_memories(asked, result)]), None)


def _times(asked: Invocation, lifetime: Lifetime, result: Result) -> Iterator[str]:
    parts = {name: one for name, one in _parts_of_the_time(asked.parameters.model_dump(), result) if one}
    total = sum(parts.values())
    longest = (1 + BOUND_GRACE) * lifetime.seconds
    if isinstance(result, EvaluateResult | FidelityResult) and result.wall_seconds > longest:
        yield f"wall_seconds is {result.wall_seconds:.4g} s, and its process was there for {lifetime.seconds:.4g} s"
    if total > longest:
        yield f"{', '.join(parts)} are {total:.4g} s, and its process was there for {lifetime.seconds:.4g} s"
    if isinstance(result, CompressResult) and not result.cost.resumed_blocks:
        if (1 + BOUND_GRACE) * total + _SLACK_SECONDS < lifetime.progress_seconds:
            yield f"{', '.join(parts)} are {total:.4g} s, and it told of progress for {lifetime.progress_seconds:.4g} s"
        yield from _of_layers(result)


def _of_layers(result: CompressResult) -> Iterator[str]:
    for layer in result.layers:
        if layer.seconds > (1 + BOUND_GRACE) * result.cost.compress_seconds:
            yield f"{layer.name} took {layer.seconds:.4g} s of {result.cost.compress_seconds:.4g} s"
            return


def _parts_of_the_time(parameters: dict[str, Any], result: Result) -> Iterator[tuple[str, float]]:
    """What follows one another in one process. What an earlier attempt spent is not this process's."""
    match result:
        case CompressResult():
            yield from _of_compression(result.cost)
        case EvaluateResult() if result.cost is not None:
            yield "load_seconds", result.cost.load_seconds
            yield "score_seconds", result.cost.score_seconds
        case StatesResult() | FidelityResult():
            yield "load_seconds", result.load_seconds
            yield "score_seconds", result.score_seconds
        case BenchmarkResult():
            yield "process_seconds", 0.0 if result.start_up is None else result.start_up.process_seconds
            yield "load_seconds", result.load_seconds
            steps = parameters["generate_tokens"] - 1
            for speed in result.speeds:
                seconds = sum(speed.batch_size * steps / sample for sample in speed.samples)
                yield f"the timed runs of batch {speed.batch_size}", seconds


def _of_compression(cost: CompressionCost) -> Iterator[tuple[str, float]]:
    yield "load_seconds", cost.load_seconds
    if not cost.resumed_blocks:
        yield "compress_seconds", cost.compress_seconds
    yield "save_seconds", cost.save_seconds
    if cost.recovery_seconds is not None:
        yield "recovery_seconds", cost.recovery_seconds


def _memories(asked: Invocation, result: Result) -> Iterator[str]:
    for name, size, method in _sizes(result):
        there = _there(asked, method) if size else None
        if size and there is not None and size > there[1]:
            yield f"{name} is {size} bytes, and {there[0]} has {there[1]}"
    if isinstance(result, BenchmarkResult) and result.memory.per_device_bytes:
        known = {gpu.uuid: gpu.memory_bytes for gpu in find_gpus()}
        for uuid, held in zip(asked.device.uuids, result.memory.per_device_bytes, strict=False):
            if (has := known.get(uuid)) is not None and held > has:
                yield f"per_device_bytes of {uuid} are {held}, and it has {has}"


def _there(asked: Invocation, method: str) -> tuple[str, int] | None:
    """What holds a memory that is measured so, and how much of it there is; None where that is not known."""
    if method.startswith(_OF_HOST):
        return "this machine", machine_bytes()
    if method != _OF_GPU or not asked.device.uuids:
        return None
    known = {gpu.uuid: gpu.memory_bytes for gpu in find_gpus()}
    sizes = [known.get(uuid) for uuid in asked.device.uuids]
    return None if None in sizes else ("the device", sum(size or 0 for size in sizes))


def _sizes(result: Result) -> Iterator[tuple[str, int | None, str]]:
    """Each with its name and the method of the memory that it is of."""
    if isinstance(result, CompressResult):
        yield "peak_memory_bytes", result.cost.memory.peak_memory_bytes, result.cost.memory.method
    if not isinstance(result, ProfileResult | BenchmarkResult):
        return
    method, parts = result.memory.method, result.memory_parts
    yield "peak_memory_bytes", result.memory.peak_memory_bytes, method
    if parts is not None:
        yield "memory_parts.weight_bytes", parts.weight_bytes, method
        yield "memory_parts.kv_cache_bytes", parts.kv_cache_bytes, method
        yield "memory_parts.activation_bytes", parts.activation_bytes, method
        yield "memory_parts.overhead_bytes", parts.overhead_bytes, method
    if isinstance(result, BenchmarkResult):
        if result.start_up is not None:
            yield "start_up.peak_memory_bytes", result.start_up.peak_memory_bytes, method
        for speed in result.speeds:
            if speed.telemetry is not None:
                yield f"memory_used_bytes at batch {speed.batch_size}", speed.telemetry.memory_used_bytes, _OF_GPU
