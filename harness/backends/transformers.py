"""Hugging Face transformers: the reference that every other backend is compared with.

On a CPU it computes with dense weights only: packed ones are dequantized on load, and quantized activations simulated,
which takes time that an engine with such kernels would not. On a GPU quantized linears compute from their codes where
there are kernels, zeros can be packed, and a decoding step is compiled and replayed from a CUDA graph, over joined
linears and a cache of fixed size. What is not made use of is said in the notes.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel  # imported here, so that the time it takes is not part of loading

from harness.architectures.blocks import decoder_blocks
from harness.backends.base import Backend, EngineInfo, Prompts, TimedRun
from harness.backends.fused_blocks import fuse
from harness.backends.opened_model import OpenedModel, dequantized_because, open_model
from harness.backends.serving_memory import ServingPeak
from harness.backends.static_cache import padded
from harness.backends.static_decoding import StaticDecoder, Stepping
from harness.contract import Device, Dtype, Frozen, MemoryParts, Reason, Scalar
from harness.errors import Unsupported
from harness.models.decoding import decode, random_prompts
from harness.models.loading import LoadedModel, select_device
from harness.options import parse_options
from harness.profiling.memory import measured_parts, tensor_bytes
from harness.telemetry import PeakMemory, resident_bytes

GROWING = "growing"
_ROTARY_OF_LENGTH = ("dynamic", "longrope")
_PACKED_DTYPES = (Dtype.FLOAT16, Dtype.BFLOAT16)


class TransformersOptions(Frozen):
    """`decoding`: `growing` is the library's own cache, for which nothing is reserved; `static`, `graph`, `compiled`
    and `tuned` are those of `Stepping`; `auto` takes `growing` on a CPU and on a GPU `tuned`, or `graph` where nothing
    can be compiled.

    `sparse`: `auto` packs the weights of a pruned model on a GPU where decoding the largest batch was measured to be
    faster, and multiplies prompts the fastest way that packed weights allow; `off` serves zeros as weights. `codes`:
    `auto` computes quantized linears from their codes on a GPU; `off` dequantizes them.
    """

    decoding: Literal["auto", "growing", "static", "graph", "compiled", "tuned"] = "auto"
    sparse: Literal["off", "auto"] = "off"
    codes: Literal["auto", "off"] = "auto"


class TransformersEngine:
    """A model in this process. See `harness.backends.base.Engine`."""

    def __init__(
        self,
        opened: OpenedModel,
        options: Mapping[str, Scalar],
        *,
        context_tokens: int,
        batch_sizes: tuple[int, ...],
        kv_tokens: int,
        peak: ServingPeak,
    ) -> None:
        self.peak = peak
        self.memory_parts: MemoryParts | None = None
        self.loaded = loaded = opened.loaded
        stepping, note = _stepping(str(options.get("decoding", "auto")), loaded, padded(context_tokens))
        self._decoder: StaticDecoder | None = None
        self._most_grown_bytes = 0
        modules = [block.module for block in decoder_blocks(loaded.model)] if stepping is not None else []
        joined = fuse(loaded.model) if stepping is not None else 0
        largest = max(batch_sizes)
        unused = opened.place((*batch_sizes, largest * context_tokens))
        if stepping is not None and options.get("sparse") == "auto":
            unused = _use_sparse(loaded, modules, largest, largest * context_tokens) or unused
        _free_unused(loaded.device)
        if stepping is not None:
            self._decoder = StaticDecoder(loaded, stepping, kv_tokens=kv_tokens)
        notes = (*unused, *([note] if note else []), *_decoding_notes(stepping, joined))
        self._info = EngineInfo(loaded.dtype, loaded.dtype_reason, loaded.load_seconds, notes=notes)

    @property
    def info(self) -> EngineInfo:
        return (
            self._info if self._decoder is None else replace(self._info, compile_seconds=self._decoder.compile_seconds)
        )

    @property
    def kv_cache_bytes(self) -> int:
        """What is reserved, or the most that a growing cache came to."""
        return self._most_grown_bytes if self._decoder is None else self._decoder.room.held_bytes

    def run(
        self, *, batch_size: int, prompt_tokens: int, generate_tokens: int, seed: int, prompts: Prompts | None = None
    ) -> TimedRun:
        if prompts is None:
            tokens = random_prompts(self.loaded, batch_size=batch_size, tokens=prompt_tokens, seed=seed)
        else:
            tokens = torch.tensor(prompts, device=self.loaded.device)
        if self._decoder is None:
            decoded = decode(self.loaded, tokens, generate_tokens)
            self._most_grown_bytes = max(self._most_grown_bytes, decoded.cache_bytes)
        else:
            decoded = self._decoder.decode(tokens, generate_tokens)
        sequences, length = decoded.tokens.shape
        generated = tuple(tuple(sequence) for sequence in decoded.tokens.tolist())
        return TimedRun(
            (length,) * sequences, decoded.prefill_seconds, decoded.decode_seconds, decoded.step_seconds, generated
        )


@contextmanager
def serve(
    checkpoint: Path,
    device: Device,
    dtype: Dtype | None,
    *,
    context_tokens: int,
    batch_sizes: tuple[int, ...],
    kv_tokens: int,
    options: Mapping[str, Scalar],
    work: Path,
) -> Iterator[TransformersEngine]:
    """See `harness.backends.base.Serve`. The options are those of `TransformersOptions`."""
    parse_options(TransformersOptions, options, "transformers")
    where = select_device(device)
    with ServingPeak(partial(PeakMemory, where)) as peak:
        resident_before = resident_bytes()
        opened = open_model(checkpoint, device, dtype, options)
        engine = TransformersEngine(
            opened, options, context_tokens=context_tokens, batch_sizes=batch_sizes, kv_tokens=kv_tokens, peak=peak
        )
        yield engine
    engine.memory_parts = measured_parts(
        peak.memory,
        where,
        weight_bytes=tensor_bytes(opened.loaded.model),
        kv_cache_bytes=engine.kv_cache_bytes,
        resident_before_bytes=resident_before,
    )


BACKEND = Backend(TransformersOptions, serve, dequantized_because)


def _stepping(decoding: str, loaded: LoadedModel, positions: int) -> tuple[Stepping | None, str | None]:
    """How to make steps, None for a growing cache; and why it is not what `auto` usually takes."""
    on_gpu = loaded.device.type == "cuda"
    if decoding == GROWING or (decoding == "auto" and not on_gpu):
        return None, None
    obstacle = _obstacle(loaded.model, positions)
    if obstacle is not None:
        if decoding == "auto":
            return None, f"decoded with a growing cache: {obstacle}"
        raise Unsupported(Reason.SHAPE, obstacle, hint=f"ask for fewer tokens, or for decoding={GROWING}")
    if decoding == "auto":
        missing = _missing_for_compiling()
        if missing is not None:
            return Stepping.GRAPH, f"not compiled: {missing}"
        return Stepping.TUNED, None
    stepping = Stepping(decoding)
    if stepping is not Stepping.STATIC and not on_gpu:
        raise Unsupported(
            Reason.DEVICE,
            f"decoding={decoding} replays a CUDA graph, and this is a CPU",
            hint=f"ask for decoding={GROWING} or decoding={Stepping.STATIC.value}",
        )
    return stepping, None


def _missing_for_compiling() -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        return "there is no C compiler, which Triton needs"
    return None


def _free_unused(device: torch.device) -> None:
    """Give back what measuring kernels left in the allocator, the pools of its graphs among it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _use_sparse(
    loaded: LoadedModel, blocks: list[torch.nn.Module], sequences: int, prompt_tokens: int
) -> tuple[str, ...]:
    """Notes of what was packed; empty where the model holds no zeros that could be, or kernels that could use them."""
    sparsity = loaded.descriptor.sparsity
    plain = loaded.descriptor.quantization is None and loaded.dtype in _PACKED_DTYPES
    if sparsity is None or not plain or loaded.device.type != "cuda":
        return ()
    from harness.backends.sparse_serving import use_sparse

    return use_sparse(blocks, pattern=sparsity.pattern, tokens=(sequences,), prompt_tokens=prompt_tokens)


def _obstacle(model: PreTrainedModel, positions: int) -> str | None:
    """Why a static cache would not compute what the model says; None where it does."""
    config: Any = model.config
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ()) or config.model_type == "mistral"
    window = getattr(config, "sliding_window", None)
    if sliding and window is not None and window < positions:
        return f"attention reaches back {window} positions, which a static cache of {positions} does not follow"
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    if rotary in _ROTARY_OF_LENGTH:
        return f"the rotary embedding ({rotary}) changes with the length, which is read on the host"
    return None


def _decoding_notes(stepping: Stepping | None, joined: int) -> tuple[str, ...]:
    if stepping is None:
        return ()
    done = {
        Stepping.STATIC: "one operation after the other",
        Stepping.GRAPH: "each step replayed from a CUDA graph",
        Stepping.COMPILED: "each step compiled and replayed from a CUDA graph",
        Stepping.TUNED: "each step compiled with measured matrix products and replayed from a CUDA graph",
    }[stepping]
    return (f"decoded over a static cache, {done}; linears of {joined} blocks joined",)
