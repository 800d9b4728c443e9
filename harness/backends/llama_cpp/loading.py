"""A checkpoint in llama.cpp, for timing and scoring alike: written as a GGUF file, loaded, and what that decided."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.backends.base import served_as_dense
from harness.backends.llama_cpp.gguf_file import Kind, Written, write_gguf
from harness.backends.llama_cpp.library import open_library
from harness.backends.llama_cpp.session import Log, Session, open_session
from harness.checkpoint import open_checkpoint
from harness.contract import CheckpointDescriptor, CheckpointFormat, Device, DeviceKind, Dtype, Reason
from harness.contract.ggml import BlockType
from harness.environment import available_threads
from harness.errors import BadRequest, Unsupported

_FORMATS = (
    CheckpointFormat.DENSE,
    CheckpointFormat.PACK_QUANTIZED,
    CheckpointFormat.INT_QUANTIZED,
    CheckpointFormat.GPTQ,
    CheckpointFormat.AWQ,
    CheckpointFormat.MODELOPT_AWQ,
    CheckpointFormat.GGUF,
)
_WHOLE_BITS = 16
DENSE = "dense"
"""The option `weights` that leaves dense weights as they are."""


@dataclass(frozen=True)
class Prepared:
    """A GGUF file that was written in `seconds`, and the dtype of its dense matrices and of keys and values."""

    library: Any
    file: Path
    descriptor: CheckpointDescriptor
    dtype: Dtype
    dtype_reason: str
    seconds: float
    kind: Kind
    written: Written

    @property
    def has_integer_products(self) -> bool:
        """Whether some matrix is in blocks, so that its inputs are rounded to 8 bits where it is computed with."""
        return any(name.lower() in set(BlockType) for name in self.written.types)


@contextmanager
def prepare(
    checkpoint: Path, device: Device, dtype: Dtype | None, *, weights: str = DENSE, context_tokens: int, work: Path
) -> Iterator[Prepared]:
    """The checkpoint as a GGUF file in a folder below `work`, which goes again. `weights` is `LlamaCppOptions`'.

    Raises:
        Unsupported, BadCheckpoint: as `write_gguf` and `open_library` say; or the device or the format is another.
        BadRequest: quantized weights are asked to be rounded.
    """
    descriptor = open_checkpoint(checkpoint)
    _refuse(descriptor, device, weights)
    chosen = dtype or descriptor.dtype
    reason = f"{chosen.value} was asked for" if dtype else f"{chosen.value} is the checkpoint's own dtype"
    kind = Kind(chosen.value if weights == DENSE else weights)
    library = open_library()
    with TemporaryDirectory(prefix="gguf-", dir=work) as scratch:
        file = Path(scratch) / "model.gguf"
        begin = time.perf_counter()
        written = write_gguf(checkpoint, file, kind, context_tokens=context_tokens)
        yield Prepared(library, file, descriptor, chosen, reason, time.perf_counter() - begin, kind, written)


@dataclass(frozen=True)
class Loaded:
    """A session, and how long loading it took."""

    session: Session
    seconds: float


@contextmanager
def load(
    prepared: Prepared, device: Device, *, sequences: int, kv_tokens: int, step_tokens: int | None = None
) -> Iterator[Loaded]:
    """The file in llama.cpp. Raises as `open_session` says."""
    begin = time.perf_counter()
    with open_session(
        prepared.library,
        Log(prepared.library),
        prepared.file,
        prepared.dtype,
        threads=device.threads or available_threads(),
        sequences=sequences,
        kv_tokens=kv_tokens,
        step_tokens=step_tokens,
    ) as session:
        yield Loaded(session, time.perf_counter() - begin)


def notes_of(prepared: Prepared, session: Session) -> tuple[str, ...]:
    """What loading decided, and what of the checkpoint llama.cpp computes otherwise than was meant."""
    types = ", ".join(f"{count} {name}" for name, count in sorted(prepared.written.types.items()))
    notes = [
        f"written as a GGUF file in {prepared.seconds:.1f} s, which is no part of the load time",
        f"its matrices by type: {types}",
        f"key-value cache of {session.kv_tokens} tokens, reserved before the first run",
        f"llama.cpp was compiled for {', '.join(session.instructions) or 'no vector instructions'}",
    ]
    descriptor = prepared.descriptor
    if prepared.kind in (Kind.Q8_0, Kind.Q4_0):
        notes.append(
            f"weights rounded to llama.cpp's {prepared.kind.name}, and activations to 8 bits with them: neither is part"
            " of the checkpoint, nor of its accuracy"
        )
    elif prepared.has_integer_products:
        notes.append(_rounding_of_activations(descriptor))
    notes += [_change(name, change) for name, change in sorted(prepared.written.changes.items())]
    return (*notes, *served_as_dense(descriptor))


def _rounding_of_activations(descriptor: CheckpointDescriptor) -> str:
    how = "llama.cpp rounds what quantized matrices read to 8 bits, with one scale for 32 values, or 256 with K-quants"
    bits = _WHOLE_BITS if descriptor.quantization is None else descriptor.quantization.activation_bits
    return (
        f"{how}; the method has one for a token" if bits < _WHOLE_BITS else f"{how}, which the checkpoint does not say"
    )


def _change(block_type: BlockType, change: float) -> str:
    if change == 0:
        return f"codes and scales lie in {block_type.name} exactly"
    return f"half precision in {block_type.name} changes a weight by up to {change:.2g} of its group's step"


def _refuse(descriptor: CheckpointDescriptor, device: Device, weights: str) -> None:
    if device.kind is not DeviceKind.CPU:
        raise Unsupported(
            Reason.DEVICE, "this build of llama.cpp computes on a CPU only", hint="ask for the cpu, or for `vllm`"
        )
    if descriptor.format not in _FORMATS:
        raise Unsupported(
            Reason.FORMAT,
            f"{descriptor.format.value} weights are not carried into a GGUF file",
            hint="serve them with `vllm` or `transformers`",
        )
    if descriptor.format is not CheckpointFormat.DENSE and weights != DENSE:
        raise BadRequest(
            f"weights={weights} rounds dense weights, and these are {descriptor.format.value} already",
            hint="leave `weights` out for quantized checkpoints",
        )
