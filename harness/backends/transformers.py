"""Hugging Face transformers as its users have it: greedy generation over the library's own growing key-value cache.

It computes with dense weights: packed ones are dequantized on load, and quantized activations simulated, which takes
time that an engine with such kernels would not. What is not made use of is said in the notes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from torch import Tensor

from harness.backends.base import Backend, ServeOrder
from harness.backends.in_process import InProcessEngine, loaded_dtype, served_in_process, unpacked_notes
from harness.backends.refusals import refuse_ggml_blocks
from harness.backends.serving_memory import ServingPeak
from harness.checkpoint import open_checkpoint
from harness.contract import CheckpointFormat
from harness.models.decoding import Decoded, decode
from harness.models.loading import load_model
from harness.options import NoOptions


class TransformersEngine(InProcessEngine):
    """See `harness.backends.base.Engine`. Nothing is reserved for keys and values."""

    def __init__(self, order: ServeOrder[NoOptions], peak: ServingPeak) -> None:
        super().__init__(load_model(order.checkpoint, order.device, order.dtype), peak)
        packed = self.loaded.descriptor.format is not CheckpointFormat.DENSE
        self.info = replace(self.info, notes=unpacked_notes(self.loaded), dequantized=packed)
        self._most_grown_bytes = 0

    @property
    def kv_cache_bytes(self) -> int:
        return self._most_grown_bytes

    def decode(self, prompts: Tensor, generate_tokens: int) -> Decoded:
        decoded = decode(self.loaded, prompts, generate_tokens)
        self._most_grown_bytes = max(self._most_grown_bytes, decoded.cache_bytes)
        return decoded


@contextmanager
def serve(order: ServeOrder[NoOptions]) -> Iterator[TransformersEngine]:
    """See `harness.backends.base.Backend`. There are no options."""
    refuse_ggml_blocks("transformers", open_checkpoint(order.checkpoint))
    with served_in_process(order.device, partial(TransformersEngine, order)) as engine:
        yield engine


BACKEND = Backend(NoOptions, serve, loaded_dtype)
