"""Greedy decoding over a static cache: a step whose every input lies on the device, so that a CUDA graph can replay it.

What differs from the growing cache of `harness.models.decoding` is speed alone: the same model, the same prompts, and
tokens that are equal but for rounding (other kernels add in another order).
"""

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from harness.backends.native.static_cache import KeyValueRoom, layer_sizes
from harness.models.decoding import Decoded, StepClock
from harness.models.loading import LoadedModel
from harness.telemetry import Stopwatch

_WARM_UP_STEPS = 3


class Stepping(StrEnum):
    """How a step is started: one operation after the other; replayed from a CUDA graph; compiled, then replayed.

    TUNED also compiles, and lets the compiler measure cuts of the kernels that it writes. It writes products itself for
    a single sequence only, so for more TUNED is COMPILED.
    """

    STATIC = "static"
    GRAPH = "graph"
    COMPILED = "compiled"
    TUNED = "tuned"


class StaticDecoder:
    """A loaded model with room for keys and values. `compile_seconds` is what making steps has taken so far."""

    def __init__(self, loaded: LoadedModel, stepping: Stepping, *, kv_tokens: int) -> None:
        sizes = layer_sizes(loaded.model, loaded.device)
        weight = next(loaded.model.parameters())
        self.room = KeyValueRoom(sizes, kv_tokens, dtype=weight.dtype, device=loaded.device)
        self.compile_seconds = 0.0
        self._loaded = loaded
        self._stepping = stepping
        self._batches: dict[tuple[int, int], _Batch] = {}

    @torch.inference_mode()
    def decode(self, prompts: Tensor, generate_tokens: int) -> Decoded:
        """See `harness.models.decoding.decode`. The first call for a size and length makes its step, untimed."""
        batch = self._batch(prompts, prompts.shape[1] + generate_tokens)
        with Stopwatch(self._loaded.device) as prefill:
            batch.fill(prompts)
        clock = StepClock(self._loaded.device)
        with Stopwatch(self._loaded.device) as rest:
            clock.tick()
            for _ in range(generate_tokens - 1):
                batch.step()
                clock.tick()
        first = prompts.shape[1]
        tokens = batch.tokens[:, first : first + generate_tokens].clone()
        return Decoded(tokens, prefill.seconds, rest.seconds, clock.seconds(), self.room.held_bytes)

    def _batch(self, prompts: Tensor, positions: int) -> "_Batch":
        key = (prompts.shape[0], positions)
        if key not in self._batches:
            begin = time.perf_counter()
            batch = _Batch(self._loaded.model, self.room, *key)
            batch.fill(prompts)
            batch.make(self._stepping)
            self._batches[key] = batch
            self.compile_seconds += time.perf_counter() - begin
        return self._batches[key]


class _Batch:
    """A batch size at a length. `tokens` int64 [batch, positions] has each generated token at its own position."""

    def __init__(self, model: Any, room: KeyValueRoom, batch_size: int, positions: int) -> None:
        self._model = model
        self._cache = room.cache(batch_size, positions)
        device = self._cache.position.device
        self._places = torch.arange(self._cache.positions, device=device)
        self._last = torch.zeros(batch_size, 1, dtype=torch.int64, device=device)
        self.tokens = torch.zeros(batch_size, positions, dtype=torch.int64, device=device)
        self.step: Callable[[], None] = self._step
        self._compute: Callable[[Tensor, Tensor], Tensor] = self._forward

    def fill(self, prompts: Tensor) -> None:
        """Compute the prompts in one pass, and each one's first token."""
        count = prompts.shape[1]
        self._cache.filling = True
        logits = self._model(
            input_ids=prompts,
            position_ids=self._places[None, :count],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        self._cache.filling = False
        self._last.copy_(logits[:, -1:].argmax(dim=-1))
        self._cache.position.fill_(count)
        self.tokens[:, count : count + 1] = self._last

    def make(self, stepping: Stepping) -> None:
        """Make `step` what `stepping` says. Leaves the batch where some steps were done: fill it before it is used."""
        if stepping in (Stepping.COMPILED, Stepping.TUNED):
            tuned = stepping is Stepping.TUNED and self._last.shape[0] == 1
            self._compute = torch.compile(self._forward, dynamic=False, options={"coordinate_descent_tuning": tuned})
        if stepping is not Stepping.STATIC:
            self.step = self._capture()

    def _capture(self) -> Callable[[], None]:
        """Record one step, after a few on a stream of their own in which libraries set up their workspaces."""
        start = self._cache.position.clone()
        stream = torch.cuda.Stream(start.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(start.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                self._cache.position.copy_(start)
                self._step()
        torch.cuda.current_stream(start.device).wait_stream(stream)
        self._cache.position.copy_(start)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph.replay

    def _step(self) -> None:
        """Compute every sequence's next token. Nothing here is read on the host."""
        position = self._cache.position
        following = self._compute(self._last, position)
        self._last.copy_(following)
        position.add_(1)
        self.tokens.index_copy_(1, position, following)

    def _forward(self, last: Tensor, position: Tensor) -> Tensor:
        seen = (self._places <= position)[None, None, None, :]
        logits = self._model(
            input_ids=last,
            position_ids=position[None, :],
            attention_mask=seen,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        following: Tensor = logits[:, -1:].argmax(dim=-1)
        return following
