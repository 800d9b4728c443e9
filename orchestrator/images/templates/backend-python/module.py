"""@NAME@: a backend of the harness. What is special to the library is how `serve` loads and how `run` generates."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from harness.backends.base import (
    Backend,
    BatchOrder,
    EngineInfo,
    ServedWeights,
    ServeOrder,
    TimedRun,
    products_in,
)
from harness.backends.following import Following, some_positions, tie_nats
from harness.backends.serving_memory import ServingPeak
from harness.contract import MemoryParts
from harness.models.decoding import decode
from harness.models.loading import TORCH_DTYPES, LoadedModel, load_model, select_device
from harness.options import NoOptions
from harness.profiling.profile import token_weight_bytes
from harness.telemetry import PeakMemory


class Engine:
    """A loaded checkpoint; see `harness.backends.base.Engine`."""

    def __init__(self, checkpoint: Path, loaded: LoadedModel, peak: ServingPeak) -> None:
        self.peak = peak
        self.memory_parts: MemoryParts | None = None
        self.info = EngineInfo(loaded.dtype, loaded.dtype_reason, loaded.load_seconds)
        self.vocabulary = int(loaded.model.config.vocab_size)
        token_bytes = token_weight_bytes(checkpoint, TORCH_DTYPES[loaded.dtype].itemsize)
        self.weights = ServedWeights(token_bytes, products_in(loaded.dtype, loaded.device))
        self._loaded = loaded

    def run(self, batch: BatchOrder) -> TimedRun:
        prompts = batch.token_ids(self.vocabulary)
        decoded = decode(self._loaded, torch.tensor(prompts, device=self._loaded.device), batch.generate_tokens)
        generated = tuple(tuple(sequence) for sequence in decoded.tokens.tolist())
        return TimedRun(
            generated_tokens=tuple(map(len, generated)),
            prefill_seconds=decoded.prefill_seconds,
            decode_seconds=decoded.decode_seconds,
            step_seconds=decoded.step_seconds,
            generated=generated,
        )

    def follow(self, prompt: tuple[int, ...], generated: tuple[int, ...]) -> Mapping[int, Following]:
        """Each token as the first one after a longer prompt."""
        found = {}
        for place in some_positions(len(generated)):
            before = torch.tensor([[*prompt, *generated[:place]]], device=self._loaded.device)
            token = int(decode(self._loaded, before, 1).tokens[0, 0])
            found[place] = Following(token, None, tie_nats(self.info.dtype))
        return found


@contextmanager
def serve(order: ServeOrder[NoOptions]) -> Iterator[Engine]:
    """See `harness.backends.base.Backend`."""
    with ServingPeak(partial(PeakMemory, select_device(order.device))) as peak:
        yield Engine(order.checkpoint, load_model(order.checkpoint, order.device, order.dtype), peak)


BACKEND = Backend(NoOptions, serve)
