"""Speed of llama.cpp: the checkpoint written as a GGUF file, and its sequences decoded in one batch, step by step."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from harness.architectures.shape import Shape, read_shape
from harness.backends.base import (
    Backend,
    BatchOrder,
    EngineInfo,
    ServedWeights,
    ServeOrder,
    TimedRun,
    products_in,
    served_as_dense,
)
from harness.backends.following import Following, some_positions, tie_nats
from harness.backends.llama_cpp.gguf_file import Kind, write_gguf
from harness.backends.llama_cpp.library import open_library
from harness.backends.llama_cpp.session import Log, Session, open_session
from harness.backends.serving_memory import ServingPeak
from harness.checkpoint import open_checkpoint, read_config
from harness.contract import (
    CheckpointDescriptor,
    CheckpointFormat,
    Device,
    DeviceKind,
    Dtype,
    Frozen,
    MemoryParts,
    Reason,
)
from harness.environment import available_threads
from harness.errors import Unsupported
from harness.models.loading import select_device
from harness.profiling.memory import measured_parts
from harness.telemetry import PeakMemory, resident_bytes

_ROUNDED = (Kind.Q8_0, Kind.Q4_0)
_VALUE_BYTES = {Dtype.FLOAT32: 4, Dtype.BFLOAT16: 2, Dtype.FLOAT16: 2}


class LlamaCppOptions(Frozen):
    """`weights`: `q8_0` and `q4_0` round the dense weights to these types of llama.cpp; `dense` keeps them."""

    weights: Literal["dense", "q8_0", "q4_0"] = "dense"


@dataclass(frozen=True)
class _Written:
    """A GGUF file, the dtype of keys and values, how long it took to write, and what its matrices are stored as."""

    file: Path
    dtype: Dtype
    dtype_reason: str
    seconds: float
    kind: Kind


class LlamaCppEngine:
    """A checkpoint in llama.cpp. See `harness.backends.base.Engine`."""

    def __init__(
        self,
        session: Session,
        written: _Written,
        descriptor: CheckpointDescriptor,
        begin: float,
        peak: ServingPeak,
        weights: ServedWeights,
    ) -> None:
        self.info = EngineInfo(
            written.dtype,
            written.dtype_reason,
            load_seconds=time.perf_counter() - begin,
            notes=_notes(session, written, descriptor),
        )
        self.peak = peak
        self.memory_parts: MemoryParts | None = None
        self.weights = weights
        self.vocabulary = session.vocabulary
        self.session = session
        self._activation_bits = 8 if written.kind in _ROUNDED else 16

    def run(self, batch: BatchOrder) -> TimedRun:
        decoded = self.session.generate(batch.token_ids(self.session.vocabulary), batch.generate_tokens)
        return TimedRun(
            generated_tokens=tuple(len(one) for one in decoded.tokens),
            prefill_seconds=decoded.prefill_seconds,
            decode_seconds=sum(decoded.step_seconds),
            step_seconds=decoded.step_seconds,
            generated=decoded.tokens,
        )

    def follow(self, prompt: tuple[int, ...], generated: tuple[int, ...]) -> Mapping[int, Following]:
        """At some places, each from the logits after one prompt."""
        found = {}
        for place in some_positions(len(generated)):
            self.session.clear()
            logits = self.session.logits([(*prompt, *generated[:place])], begin=0)[0]
            tie = tie_nats(self.info.dtype, self._activation_bits, float(logits.std()))
            found[place] = Following(int(logits.argmax()), float(logits.max() - logits[generated[place]]), tie)
        return found


@contextmanager
def serve(order: ServeOrder[LlamaCppOptions]) -> Iterator[LlamaCppEngine]:
    """See `harness.backends.base.Backend`. The options are those of `LlamaCppOptions`.

    The GGUF file is written below `work`, which is no part of the load time, nor of the memory.
    """
    descriptor = open_checkpoint(order.checkpoint)
    _refuse(descriptor, order.device)
    config = read_config(order.checkpoint)
    shape = read_shape(config)
    library = open_library()
    log = Log(library)
    with TemporaryDirectory(prefix="gguf-", dir=order.work) as scratch:
        written = _write(order, Path(scratch) / "model.gguf", descriptor.dtype)
        where = select_device(order.device)
        with ServingPeak(partial(PeakMemory, where)) as peak:
            resident_before = resident_bytes()
            begin = time.perf_counter()
            with open_session(
                library,
                log,
                written.file,
                written.dtype,
                threads=order.device.threads or available_threads(),
                sequences=order.sequences,
                kv_tokens=order.kv_tokens,
            ) as session:
                weights = _weights(session, written, shape, tied=bool(config.get("tie_word_embeddings")))
                engine = LlamaCppEngine(session, written, descriptor, begin, peak, weights)
                yield engine
    engine.memory_parts = measured_parts(
        peak.memory,
        where,
        weight_bytes=session.weight_bytes,
        kv_cache_bytes=shape.kv_cache_bytes(
            tokens=session.kv_tokens, batch_size=1, value_bytes=_VALUE_BYTES[written.dtype]
        ),
        resident_before_bytes=resident_before,
    )


BACKEND = Backend(LlamaCppOptions, serve)


def _refuse(descriptor: CheckpointDescriptor, device: Device) -> None:
    if device.kind is not DeviceKind.CPU:
        raise Unsupported(
            Reason.DEVICE, "this build of llama.cpp computes on a CPU only", hint="ask for the cpu, or for `vllm`"
        )
    if descriptor.format is not CheckpointFormat.DENSE:
        raise Unsupported(
            Reason.FORMAT,
            f"{descriptor.format.value} weights are not carried into a GGUF file",
            hint="serve them with `vllm` or `transformers`; llama.cpp takes dense checkpoints here",
        )


def _weights(session: Session, written: _Written, shape: Shape, *, tied: bool) -> ServedWeights:
    """Without the input embedding's share, unless it is the output head too. Rounded weights have integer kernels."""
    rows = 0 if tied else shape.head_weights
    share = rows / (shape.decoder_weights + shape.head_weights + rows)
    products = () if written.kind in _ROUNDED else products_in(written.dtype, torch.device("cpu"))
    return ServedWeights(int(session.weight_bytes * (1 - share)), products)


def _write(order: ServeOrder[LlamaCppOptions], file: Path, stored: Dtype) -> _Written:
    begin = time.perf_counter()
    dtype = order.dtype or stored
    reason = f"{dtype.value} was asked for" if order.dtype else f"{stored.value} is the checkpoint's own dtype"
    weights = order.options.weights
    kind = Kind(dtype.value if weights == "dense" else weights)
    write_gguf(order.checkpoint, file, kind, context_tokens=order.context_tokens)
    return _Written(file, dtype, reason, time.perf_counter() - begin, kind)


def _notes(session: Session, written: _Written, descriptor: CheckpointDescriptor) -> tuple[str, ...]:
    notes = [
        f"written as a GGUF file in {written.seconds:.1f} s, which is no part of the load time",
        f"key-value cache of {session.kv_tokens} tokens, reserved before the first run",
        f"llama.cpp was compiled for {', '.join(session.instructions) or 'no vector instructions'}",
    ]
    if written.kind in _ROUNDED:
        notes.append(
            f"weights rounded to llama.cpp's {written.kind.name}, and activations to 8 bits with them: neither is part"
            " of the checkpoint, nor of its accuracy"
        )
    return (*notes, *served_as_dense(descriptor))
