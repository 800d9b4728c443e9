"""Prefill and decoding told apart where a library returns only when all tokens are there.

The same prompts are continued by one token, which is the prefill, and again by all: the difference is the decoding.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.backends.base import BatchOrder, EngineInfo, Generated, ServedWeights, TimedRun
from harness.backends.following import Following, some_positions, tie_nats
from harness.backends.prompts import Prompts
from harness.backends.serving_memory import ServingPeak
from harness.contract import MemoryParts
from harness.errors import WorkerError


@dataclass(frozen=True)
class Batch:
    """What one call returned: each sequence's count of tokens, the wall seconds, and what it says that it generated."""

    counts: tuple[int, ...]
    seconds: float
    generated: tuple[Generated, ...]


class WholeBatchEngine(ABC):
    """See `harness.backends.base.Engine`. `library` is what messages call it."""

    def __init__(
        self,
        library: str,
        info: EngineInfo,
        peak: ServingPeak,
        memory_parts: MemoryParts,
        weights: ServedWeights,
        *,
        vocabulary: int,
    ) -> None:
        self.info = info
        self.weights = weights
        self.peak = peak
        self.memory_parts: MemoryParts | None = memory_parts
        self._library = library
        self.vocabulary = vocabulary

    @abstractmethod
    def generate(self, prompts: Prompts, tokens: int) -> Batch:
        """Continue all prompts by so many tokens, an end token or not; back when every one is in host memory."""

    def run(self, batch: BatchOrder) -> TimedRun:
        return time_by_difference(
            self._library,
            partial(self.generate, batch.token_ids(self.vocabulary)),
            batch_size=batch.batch_size,
            generate_tokens=batch.generate_tokens,
        )

    def follow(self, prompt: tuple[int, ...], generated: tuple[int, ...]) -> Mapping[int, Following]:
        """At some places, each asked for as the first token after a longer prompt."""
        found = {}
        for place in some_positions(len(generated)):
            before = (*prompt, *generated[:place])
            token = self.generate((before,), 1).generated[0][0]
            gap = None if token == generated[place] else self.gap_nats(before, generated[place])
            found[place] = Following(int(token), gap, tie_nats(self.info.dtype, self.activation_bits))
        return found

    activation_bits = 16
    """Of what is served."""

    def gap_nats(self, before: tuple[int, ...], token: int) -> float | None:
        """By how much the greedy token after `before` stands above `token`, or more; None where the library is mute."""
        return None


def generate_offline(
    llm: Any, prompts: Sequence[Any], sampling: Any, explain: Callable[..., WorkerError]
) -> tuple[list[Any], Batch]:
    """One call of `LLM.generate`, which vLLM and TensorRT-LLM have alike: its outputs, and what they say.

    Raises:
        WorkerError: what `explain` makes of the library's own exception.
    """
    begin = time.perf_counter()
    try:
        outputs: list[Any] = llm.generate(prompts, sampling, use_tqdm=False)
    except Exception as failure:  # the library raises whatever its parts raise
        raise explain(failure, doing="generating") from failure
    seconds = time.perf_counter() - begin
    generated = tuple(tuple(output.outputs[0].token_ids) for output in outputs)
    return outputs, Batch(tuple(map(len, generated)), seconds, generated)


def time_by_difference(
    library: str, generate: Callable[[int], Batch], *, batch_size: int, generate_tokens: int
) -> TimedRun:
    """`generate` continues the batch by as many tokens as it is given.

    Raises:
        WorkerError: the short run has another number of tokens, or the long one takes no longer than it.
    """
    first = generate(1)
    if first.counts != (1,) * batch_size:
        raise WorkerError(
            f"{library} generated {first.counts} tokens instead of one in each of {batch_size} sequences, so its"
            " prefill cannot be timed",
            hint=f"the installed {library} counts differently from the pinned one; use the image's lock",
        )
    whole = generate(generate_tokens)
    if whole.seconds <= first.seconds:
        raise WorkerError(
            f"{library} took {whole.seconds:.4f} s for {generate_tokens} tokens and {first.seconds:.4f} s for one,"
            " so their difference is no time",
            hint="leave the machine alone while timing, or generate more tokens",
        )
    return TimedRun(whole.counts, first.seconds, whole.seconds - first.seconds, generated=whole.generated)
