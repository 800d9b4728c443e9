"""One benchmark request from beginning to end: what is asked for, whether it fits, the runs, the result."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from harness.architectures.shape import read_shape
from harness.backends.base import BackendModule, ServeOrder
from harness.backends.bounds import SpeedBounds
from harness.backends.prompts import Prompts, read_prompts
from harness.backends.timing import Timer
from harness.checkpoint import open_checkpoint, read_config
from harness.contract import (
    BenchmarkParameters,
    BenchmarkRequest,
    BenchmarkResult,
    CheckpointDescriptor,
    Dtype,
    MemoryPrediction,
    Reason,
    StartUp,
)
from harness.device_telemetry import gpu_uuids
from harness.errors import BadRequest, Unsupported
from harness.inputs import input_folder
from harness.models.decoding import check_lengths
from harness.models.loading import TORCH_DTYPES, select_device
from harness.operations import describe_image, offered_module
from harness.options import parse_options
from harness.profiling.memory import free_bytes, free_bytes_of_all, predict, refuse_if_too_large
from harness.profiling.profile import weight_bytes
from harness.reporter import Reporter

_BLOCK_TOKENS = 128
"""Positions are reserved for each sequence in whole blocks of the largest size that a backend has."""


def benchmark(request: BenchmarkRequest, reporter: Reporter) -> BenchmarkResult:
    """See `harness.backends.run`."""
    parameters = request.parameters
    backend = cast(BackendModule, offered_module(describe_image().backends, parameters.backend, Reason.BACKEND)).BACKEND
    options = parse_options(backend.options, parameters.options, parameters.backend)
    checkpoint = input_folder(request, "checkpoint")
    descriptor, config = open_checkpoint(checkpoint), read_config(checkpoint)
    _check(parameters, context=config.get("max_position_embeddings"))
    prompts = _given_prompts(request, checkpoint, vocabulary=config.get("vocab_size"))
    order = ServeOrder(
        checkpoint=checkpoint,
        device=request.device,
        dtype=parameters.dtype,
        context_tokens=parameters.prompt_tokens + parameters.generate_tokens,
        batch_sizes=parameters.batch_sizes,
        kv_tokens=_kv_tokens(parameters),
        options=options,
        work=Path(request.output),
    )
    where = select_device(request.device, order.tensor_parallel)
    prediction = _predict(order, descriptor, config, backend.dense_dtype(order), prompt_tokens=parameters.prompt_tokens)
    if prediction is not None:
        refuse_if_too_large(prediction)
    process_seconds = seconds_since_process_start()
    with backend.serve(order) as engine:
        timer = Timer(engine, parameters, prompts, gpu_uuids(where, order.tensor_parallel))
        speeds = timer.measure(reporter)
        weights, dtype = engine.weights, engine.info.dtype
    bounds = SpeedBounds.of(where, parameters, weights, dtype, descriptor, config)
    speeds = tuple(bounds.hold(speed) for speed in speeds)
    return BenchmarkResult(
        backend=parameters.backend,
        protocol=parameters.protocol,
        speeds=speeds,
        load_seconds=engine.info.load_seconds,
        start_up=StartUp(
            process_seconds=process_seconds,
            load_seconds=engine.info.load_seconds,
            compile_seconds=engine.info.compile_seconds,
            first_token_seconds=timer.first_token_seconds,
            peak_memory_bytes=engine.peak.start_up_bytes,
        ),
        memory=engine.peak.memory,
        memory_parts=engine.memory_parts,
        memory_prediction=prediction,
        kv_cache_tokens=order.kv_tokens,
        dtype=engine.info.dtype,
        dtype_reason=engine.info.dtype_reason,
        dequantized=engine.info.dequantized,
        notes=(*engine.info.notes, *timer.notes),
    )


def seconds_since_process_start() -> float:
    """As the kernel counts them, in hundredths."""
    started = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    return max(uptime - started / os.sysconf("SC_CLK_TCK"), 0.0)


def _check(parameters: BenchmarkParameters, *, context: object) -> None:
    if parameters.generate_tokens < 2:
        raise BadRequest("one generated token leaves nothing to time after the prefill", hint="generate two or more")
    if isinstance(context, int):
        check_lengths(parameters.prompt_tokens, parameters.generate_tokens, context=context)


def _kv_tokens(parameters: BenchmarkParameters) -> int:
    """The positions to keep keys and values for, in every backend alike."""
    each = parameters.prompt_tokens + parameters.generate_tokens
    largest = max(parameters.batch_sizes)
    if parameters.kv_tokens is None:
        return largest * -(-each // _BLOCK_TOKENS) * _BLOCK_TOKENS
    if parameters.kv_tokens < largest * each:
        raise BadRequest(
            f"{largest} sequences of {each} tokens do not fit into keys and values for {parameters.kv_tokens} tokens",
            hint="leave kv_tokens out, or ask for smaller batches or fewer tokens",
        )
    return parameters.kv_tokens


def _given_prompts(request: BenchmarkRequest, checkpoint: Path, *, vocabulary: object) -> Prompts | None:
    if "prompts" not in request.inputs:
        return None
    parameters = request.parameters
    where = input_folder(request, "prompts")
    prompts = read_prompts(where, checkpoint, count=max(parameters.batch_sizes), tokens=parameters.prompt_tokens)
    largest = max(max(prompt) for prompt in prompts)
    if isinstance(vocabulary, int) and largest >= vocabulary:
        raise BadRequest(
            f"the input 'prompts' holds token {largest}, and the model has {vocabulary}",
            hint="make the prompts with this model's tokenizer, or give them as text",
        )
    return prompts


def _predict(
    order: ServeOrder[Any],
    descriptor: CheckpointDescriptor,
    config: Mapping[str, Any],
    dense: Dtype | None,
    *,
    prompt_tokens: int,
) -> MemoryPrediction | None:
    """None for an architecture whose dimensions are not known: then nothing can be refused beforehand."""
    try:
        shape = read_shape(config)
    except Unsupported:
        return None
    value_bytes = TORCH_DTYPES[dense or order.dtype or descriptor.dtype].itemsize
    return predict(
        shape,
        weight_bytes=descriptor.parameter_count * value_bytes if dense else weight_bytes(order.checkpoint),
        value_bytes=value_bytes,
        kv_tokens=order.kv_tokens,
        batch_size=order.sequences,
        prompt_tokens=prompt_tokens,
        free_bytes=_free_bytes(order),
    )


def _free_bytes(order: ServeOrder[Any]) -> int | None:
    where = select_device(order.device, order.tensor_parallel)
    if order.tensor_parallel > 1:
        return free_bytes_of_all(gpu_uuids(where, order.tensor_parallel))
    return free_bytes(where)
