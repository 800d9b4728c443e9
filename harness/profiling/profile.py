"""One profile request from beginning to end: sizes from the files, MACs from the shape, memory from a run."""

import math
from dataclasses import dataclass
from pathlib import Path

from harness.architectures.shape import Shape, read_shape
from harness.architectures.windows import shortest_window
from harness.checkpoint import open_checkpoint, read_config, read_tensors
from harness.contract import (
    CheckpointDescriptor,
    CheckpointFormat,
    Memory,
    MemoryPrediction,
    ProfileRequest,
    ProfileResult,
)
from harness.contract.claims import Counted, count_claims
from harness.contract.weights import BadWeights
from harness.errors import BadCheckpoint, Unsupported
from harness.inputs import input_folder
from harness.models.decoding import check_lengths, decode, random_prompts
from harness.models.loading import TORCH_DTYPES, LoadedModel, choose_dtype, load_config, load_model, select_device
from harness.profiling.macs import count_macs
from harness.profiling.memory import free_bytes, measured_parts, predict, refuse_if_too_large, tensor_bytes
from harness.reporter import Reporter
from harness.telemetry import PeakMemory, resident_bytes

_PROMPT_SEED = 0
_SPARED = ("g_idx", "qzeros", "weight_zero_point", "weight_shape")


def profile(request: ProfileRequest, reporter: Reporter) -> ProfileResult:
    """See `harness.profiling.run`."""
    parameters = request.parameters
    folder = input_folder(request, "checkpoint")
    descriptor = open_checkpoint(folder)
    config = load_config(folder)
    check_lengths(parameters.prompt_tokens, parameters.generate_tokens, context=config.max_position_embeddings)
    counted = _count_tensors(folder, descriptor)
    operations = _count_operations(folder, descriptor, counted, parameters.macs_tokens)
    shape = operations.shape
    prediction = None if shape is None else _predict(shape, descriptor, request)
    if prediction is not None:
        refuse_if_too_large(prediction)
    reporter.progress(0, 2, "measurement")
    resident_before = resident_bytes()
    loaded = load_model(folder, request.device, parameters.dtype)
    reporter.progress(1, 2, "measurement")
    memory, held_bytes = _measure_generating(loaded, request)
    reporter.progress(2, 2, "measurement")
    window = shortest_window(config)
    cut = window is not None and window < parameters.prompt_tokens + parameters.generate_tokens
    kv_cache_bytes = held_bytes if shape is None or cut else _kv_cache_bytes(shape, loaded, request)
    return ProfileResult(
        disk_bytes=descriptor.size_bytes,
        weight_bytes=weight_bytes(folder),
        parameter_count=counted.parameter_count,
        bits_per_weight=counted.bits_per_weight,
        macs=operations.macs,
        macs_absent=operations.reason,
        macs_tokens=parameters.macs_tokens,
        memory=memory,
        memory_parts=measured_parts(
            memory,
            loaded.device,
            weight_bytes=tensor_bytes(loaded.model),
            kv_cache_bytes=kv_cache_bytes,
            resident_before_bytes=resident_before,
        ),
        memory_prediction=prediction,
        kv_cache_bytes=kv_cache_bytes,
        protocol=(f"memory/{parameters.prompt_tokens}-{parameters.generate_tokens}-b{parameters.batch_size}"),
        dtype=loaded.dtype,
        dtype_reason=loaded.dtype_reason,
        dequantized=descriptor.format is not CheckpointFormat.DENSE,
        notes=_notes(loaded),
    )


@dataclass(frozen=True)
class _Operations:
    """What config.json alone gives; without a shape, the reason why it gives nothing."""

    shape: Shape | None
    macs: dict[str, int]
    reason: str | None = None


def _count_operations(folder: Path, descriptor: CheckpointDescriptor, counted: Counted, tokens: int) -> _Operations:
    try:
        shape = read_shape(read_config(folder))
    except Unsupported as unknown:
        return _Operations(None, {}, unknown.message)
    macs = count_macs(shape, tokens, density=_density(counted), weight_bits=_bits(descriptor, counted))
    return _Operations(shape, macs)


def weight_bytes(folder: Path) -> int:
    """Bytes of all the tensors that the checkpoint stores, packed ones as they are; a tied embedding counts once.

    Raises:
        BadCheckpoint: a tensor has a dtype of unknown size.
    """
    return sum(entry.size_bytes for entry in read_tensors(folder).values())


def token_weight_bytes(folder: Path, value_bytes: int) -> int:
    """Bytes of a checkpoint's weights that a token reads at least, floats held in `value_bytes` or fewer.

    Without input embeddings, of which it reads a row, unless they are the output head too; and without what some
    kernels do without: zero points, the groups' order.
    """
    entries = read_tensors(folder)
    has_head = any(name.startswith("lm_head.") for name in entries)
    total = 0
    for name, entry in entries.items():
        row_alone = "embed_positions" in name or ("embed" in name and has_head)
        if row_alone or name.endswith(_SPARED):
            continue
        each = entry.size_bytes // max(math.prod(entry.shape), 1)
        total += math.prod(entry.shape) * (min(each, value_bytes) if "F" in entry.dtype else each)
    return total


def _predict(shape: Shape, descriptor: CheckpointDescriptor, request: ProfileRequest) -> MemoryPrediction:
    parameters = request.parameters
    dtype, _ = choose_dtype(descriptor.dtype, request.device.kind, parameters.dtype)
    value_bytes = TORCH_DTYPES[dtype].itemsize
    return predict(
        shape,
        weight_bytes=descriptor.parameter_count * value_bytes,
        value_bytes=value_bytes,
        kv_tokens=parameters.batch_size * (parameters.prompt_tokens + parameters.generate_tokens),
        batch_size=parameters.batch_size,
        prompt_tokens=parameters.prompt_tokens,
        free_bytes=free_bytes(select_device(request.device)),
    )


def _count_tensors(folder: Path, descriptor: CheckpointDescriptor) -> Counted:
    """What is in the tensors, once the descriptor was found to say the same.

    Raises:
        BadCheckpoint: it says something else of them, or they cannot be counted.
    """
    try:
        counted = count_claims(folder, descriptor)
    except BadWeights as bad:
        raise BadCheckpoint(f"{folder}: {bad}", hint="compress the checkpoint again") from bad
    if counted.untrue:
        raise BadCheckpoint(
            f"{folder}: {counted.untrue[0]}", hint="the descriptor is not to be trusted; compress the checkpoint again"
        )
    return counted


def _density(counted: Counted) -> float:
    """The share of the decoder's weights that is not zero; zeros that no method claims save nothing."""
    return 1.0 if not counted.zeros else 1.0 - counted.zeros / counted.weights


def _bits(descriptor: CheckpointDescriptor, counted: Counted) -> float:
    if counted.code_bits is not None:
        return counted.code_bits
    return 16 if descriptor.quantization is None else descriptor.quantization.weight_bits


def _notes(loaded: LoadedModel) -> tuple[str, ...]:
    if loaded.descriptor.format is CheckpointFormat.DENSE:
        return () if loaded.quantization_note is None else (loaded.quantization_note,)
    return (f"{loaded.quantization_note}; the peak memory is that of the dequantized model, not of the packed one",)


def _measure_generating(loaded: LoadedModel, request: ProfileRequest) -> tuple[Memory, int]:
    """The peak, and the bytes that keys and values took in the end."""
    parameters = request.parameters
    prompts = random_prompts(
        loaded, batch_size=parameters.batch_size, tokens=parameters.prompt_tokens, seed=_PROMPT_SEED
    )
    with PeakMemory(loaded.device) as peak:
        decoded = decode(loaded, prompts, parameters.generate_tokens)
    return peak.memory, decoded.cache_bytes


def _kv_cache_bytes(shape: Shape, loaded: LoadedModel, request: ProfileRequest) -> int:
    parameters = request.parameters
    return shape.kv_cache_bytes(
        tokens=parameters.prompt_tokens + parameters.generate_tokens,
        batch_size=parameters.batch_size,
        value_bytes=TORCH_DTYPES[loaded.dtype].itemsize,
    )
