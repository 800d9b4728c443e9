"""@NAME@: a backend of the harness. What is special to the library is how `serve` loads and how `run` generates."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from harness.backends.base import Backend, BatchOrder, EngineInfo, ServeOrder, TimedRun
from harness.backends.serving_memory import ServingPeak
from harness.contract import MemoryParts
from harness.models.decoding import decode
from harness.models.loading import LoadedModel, load_model, select_device
from harness.options import NoOptions
from harness.telemetry import PeakMemory


class Engine:
    """A loaded checkpoint; see `harness.backends.base.Engine`."""

    def __init__(self, loaded: LoadedModel, peak: ServingPeak) -> None:
        self.peak = peak
        self.memory_parts: MemoryParts | None = None
        self.info = EngineInfo(loaded.dtype, loaded.dtype_reason, loaded.load_seconds)
        self._loaded = loaded

    def run(self, batch: BatchOrder) -> TimedRun:
        prompts = batch.token_ids(int(self._loaded.model.config.vocab_size))
        decoded = decode(self._loaded, torch.tensor(prompts, device=self._loaded.device), batch.generate_tokens)
        generated = tuple(tuple(sequence) for sequence in decoded.tokens.tolist())
        return TimedRun(
            generated_tokens=tuple(map(len, generated)),
            prefill_seconds=decoded.prefill_seconds,
            decode_seconds=decoded.decode_seconds,
            step_seconds=decoded.step_seconds,
            generated=generated,
        )


@contextmanager
def serve(order: ServeOrder[NoOptions]) -> Iterator[Engine]:
    """See `harness.backends.base.Backend`."""
    with ServingPeak(partial(PeakMemory, select_device(order.device))) as peak:
        yield Engine(load_model(order.checkpoint, order.device, order.dtype), peak)


BACKEND = Backend(NoOptions, serve)
