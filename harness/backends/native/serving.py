"""Speed of this project's own engine: a model of transformers, rebuilt for decoding.

Everywhere linears that read the same are joined, and keys and values lie in a cache of fixed size. On a GPU quantized
linears compute from their codes where there are kernels, zeros can be packed, and a decoding step is compiled and
replayed from a CUDA graph; on a CPU packed weights are dequantized on load. What is not made use of is said in the
notes.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel  # imported here, so that the time it takes is not part of loading

from harness.architectures.blocks import decoder_blocks
from harness.architectures.windows import shortest_window
from harness.backends.base import Backend, ServeOrder
from harness.backends.in_process import InProcessEngine, loaded_dtype, served_in_process
from harness.backends.native.fused_blocks import fuse
from harness.backends.native.opened_model import dequantized_because, open_model
from harness.backends.native.static_cache import padded
from harness.backends.native.static_decoding import StaticDecoder, Stepping
from harness.backends.refusals import refuse_ggml_blocks
from harness.backends.serving_memory import ServingPeak
from harness.checkpoint import open_checkpoint
from harness.contract import CheckpointFormat, Dtype, Frozen, Reason
from harness.errors import Unsupported
from harness.models.decoding import Decoded, decode, rotary_changes_with_length
from harness.models.loading import LoadedModel

GROWING = "growing"
_PACKED_DTYPES = (Dtype.FLOAT16, Dtype.BFLOAT16)


class NativeOptions(Frozen):
    """`decoding`: `static`, `graph`, `compiled` and `tuned` are those of `Stepping`; `growing` is the library's own
    cache, for which nothing is reserved, and linears as they are; `auto` takes `static` on a CPU and on a GPU `tuned`,
    or `graph` where nothing can be compiled, and `growing` where a static cache would not compute what the model says.

    `sparse`: `auto` packs the weights of a pruned model on a GPU where decoding the largest batch was measured to be
    faster, and multiplies prompts the fastest way that packed weights allow; `off` serves zeros as weights. `codes`:
    `auto` computes quantized linears from their codes on a GPU; `off` dequantizes them.
    """

    decoding: Literal["auto", "growing", "static", "graph", "compiled", "tuned"] = "auto"
    sparse: Literal["off", "auto"] = "off"
    codes: Literal["auto", "off"] = "auto"


class NativeEngine(InProcessEngine):
    """See `harness.backends.base.Engine`."""

    def __init__(self, order: ServeOrder[NativeOptions], peak: ServingPeak) -> None:
        opened = open_model(order.checkpoint, order.device, order.dtype, codes=order.options.codes == "auto")
        super().__init__(opened.loaded, peak)
        loaded, prompt_tokens = opened.loaded, order.sequences * order.context_tokens
        stepping, note = _stepping(order.options.decoding, loaded, padded(order.context_tokens))
        self._decoder: StaticDecoder | None = None
        self._most_grown_bytes = 0
        modules = [block.module for block in decoder_blocks(loaded.model)] if stepping is not None else []
        joined = fuse(loaded.model) if stepping is not None else 0
        unused = opened.place((*order.batch_sizes, prompt_tokens))
        if stepping is not None and order.options.sparse == "auto":
            unused = _use_sparse(loaded, modules, order.sequences, prompt_tokens) or unused
        _free_unused(loaded.device)
        if stepping is not None:
            self._decoder = StaticDecoder(loaded, stepping, kv_tokens=order.kv_tokens)
        notes = (*unused, *([note] if note else []), *_decoding_notes(stepping, joined))
        self.info = replace(self.info, notes=notes, dequantized=opened.dequantized)

    @property
    def kv_cache_bytes(self) -> int:
        """What is reserved, or the most that a growing cache came to."""
        return self._most_grown_bytes if self._decoder is None else self._decoder.room.held_bytes

    def decode(self, prompts: Tensor, generate_tokens: int) -> Decoded:
        if self._decoder is not None:
            decoded = self._decoder.decode(prompts, generate_tokens)
            self.info = replace(self.info, compile_seconds=self._decoder.compile_seconds)
            return decoded
        decoded = decode(self.loaded, prompts, generate_tokens)
        self._most_grown_bytes = max(self._most_grown_bytes, decoded.cache_bytes)
        return decoded


@contextmanager
def serve(order: ServeOrder[NativeOptions]) -> Iterator[NativeEngine]:
    """See `harness.backends.base.Backend`. The options are those of `NativeOptions`."""
    refuse_ggml_blocks("native", open_checkpoint(order.checkpoint))
    with served_in_process(order.device, partial(NativeEngine, order)) as engine:
        yield engine


def _dense_dtype(order: ServeOrder[NativeOptions]) -> Dtype | None:
    descriptor = open_checkpoint(order.checkpoint)
    refuse_ggml_blocks("native", descriptor)
    if descriptor.format is not CheckpointFormat.DENSE:
        codes = order.options.codes == "auto"
        if dequantized_because(order.checkpoint, order.device, order.dtype, codes=codes) is None:
            return None
    return loaded_dtype(order)


BACKEND = Backend(NativeOptions, serve, _dense_dtype)


def _stepping(decoding: str, loaded: LoadedModel, positions: int) -> tuple[Stepping | None, str | None]:
    """How to make steps, None for a growing cache; and why it is not what `auto` usually takes."""
    on_gpu = loaded.device.type == "cuda"
    if decoding == GROWING:
        return None, None
    obstacle = _obstacle(loaded.model, positions)
    if obstacle is not None:
        if decoding == "auto":
            return None, f"decoded with a growing cache: {obstacle}"
        raise Unsupported(Reason.SHAPE, obstacle, hint=f"ask for fewer tokens, or for decoding={GROWING}")
    if decoding == "auto":
        return _fastest(on_gpu)
    stepping = Stepping(decoding)
    if stepping is not Stepping.STATIC and not on_gpu:
        raise Unsupported(
            Reason.DEVICE,
            f"decoding={decoding} replays a CUDA graph, and this is a CPU",
            hint=f"ask for decoding={GROWING} or decoding={Stepping.STATIC.value}",
        )
    return stepping, None


def _fastest(on_gpu: bool) -> tuple[Stepping, str | None]:
    if not on_gpu:
        return Stepping.STATIC, None
    missing = _missing_for_compiling()
    return (Stepping.TUNED, None) if missing is None else (Stepping.GRAPH, f"not compiled: {missing}")


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
    from harness.backends.native.sparse_serving import use_sparse

    return use_sparse(blocks, pattern=sparsity.pattern, tokens=(sequences,), prompt_tokens=prompt_tokens)


def _obstacle(model: PreTrainedModel, positions: int) -> str | None:
    """Why a static cache would not compute what the model says; None where it does."""
    config: Any = model.config
    window = shortest_window(config)
    if window is not None and window < positions:
        return f"attention reaches back {window} positions, which a static cache of {positions} does not follow"
    if rotary := rotary_changes_with_length(config):
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
