"""The scorer: requests in, answers out as they are found."""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.architectures.shape import Shape, read_shape
from harness.errors import OutOfMemory, Unsupported
from harness.evaluation.likelihood import context_length
from harness.evaluation.prepared import Answer, TokenRequest
from harness.evaluation.scorer.chains import Chain, ModelLimits, make_chains
from harness.evaluation.scorer.forward import Forward, ReadBatch, RunningBatch
from harness.evaluation.scorer.memory import (
    choose_token_budget,
    is_out_of_memory,
    pass_tokens,
    release_cached_memory,
)
from harness.evaluation.scorer.planning import Batch, PlanLimits, pairs_within, plan_batches

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

_ROW_TOKENS = 256


@dataclass(frozen=True)
class Work:
    """What was done so far. `computed_tokens` went through the model, `padding_tokens` with them, for nothing.

    `read_positions` are those whose logits were computed; `seen_keys` counts, over the computed tokens, those that each
    may see. `requested_tokens` is what one pass for each request would have read.
    """

    requests: int = 0
    requested_tokens: int = 0
    computed_tokens: int = 0
    padding_tokens: int = 0
    read_positions: int = 0
    seen_keys: int = 0


class Scorer:
    """Log-likelihoods of continuations, each computed once however often it is asked for, and so its beginning.

    `report` is told in a sentence of every automatic choice. `token_budget` bounds the tokens of a forward pass; None
    chooses it from free memory.

    Raises:
        Unsupported: the model changes its logits after the output embedding.
    """

    def __init__(
        self, loaded: "LoadedModel", *, token_budget: int | None = None, report: Callable[[str], None]
    ) -> None:
        self._forward = Forward(loaded)
        self._device = loaded.device
        self._report = report
        self._limits = _model_limits(loaded)
        if token_budget is None:
            token_budget, self._longest, reason = choose_token_budget(loaded)
            report(f"batches of at most {token_budget} tokens: {reason}")
        else:
            self._longest = token_budget
        self._token_budget = token_budget
        if self._forward.reason_against_batches:
            report(f"one sequence at a time: {self._forward.reason_against_batches}")
        elif self._forward.reason_against_sharing:
            report(f"common beginnings are computed again for each request: {self._forward.reason_against_sharing}")
        self.work = Work()
        self._shape = _shape(loaded)

    @property
    def operations(self) -> int | None:
        """Floating-point operations that the model's matrix products needed for the work so far; None if unknown.

        Two for each weight of the linears and computed token, and of the output embedding and read position; four for
        each head's dimension, computed token and key that it may see. Padding, and keys that it may not, are no need.
        """
        if self._shape is None:
            return None
        linears = self.work.computed_tokens * (self._shape.decoder_weights + self._shape.projection_weights)
        head = self.work.read_positions * self._shape.head_weights
        return 2 * (linears + head) + 4 * self.work.seen_keys * self._shape.all_heads * self._shape.head_size

    @property
    def computed_tokens(self) -> int:
        """Tokens that went through the model so far, without padding."""
        return self.work.computed_tokens

    def score(self, requests: Sequence[TokenRequest]) -> Iterator[tuple[int, Answer]]:
        """Each request's number with its answer, once, in any order.

        A continuation without tokens has no likelihood: it gets NaN. Neighbours need not stand together, but what is
        handed over in one call is what can share its computation.

        Raises:
            BadRequest: a context is empty.
            BadCheckpoint: a token number is beyond the model's embedding.
            Unsupported: a continuation is longer than the model takes.
            OutOfMemory: one sequence alone does not fit.
        """
        chains = make_chains(requests, self._limits)
        self._count(requests=len(requests), requested_tokens=_requested_tokens(requests, self._limits))
        for number, request in enumerate(requests):
            if not request.continuation:
                yield number, Answer(math.nan, greedy=False)
        suspects: list[Chain] = []
        for batch, found in self._compute(chains, share=self._forward.reason_against_sharing is None):
            if len(batch.chains) > len(batch.rows) and not np.isfinite(found.log_likelihoods).all():
                suspects += batch.chains
            else:
                yield from _answers(found)
        for _, found in self._compute(suspects, share=False):
            yield from _answers(found)
        self._forward.forget_trunk()

    def _compute(self, chains: Sequence[Chain], *, share: bool) -> Iterator[tuple[Batch, ReadBatch]]:
        """All chains, planned again with smaller batches whenever memory runs out."""
        left = list(chains)
        while left:
            budget = 1 if self._forward.reason_against_batches else self._token_budget
            overhead = pass_tokens(self._device, self._token_budget)
            limits = PlanLimits(budget, _ROW_TOKENS, self._longest, overhead, share)
            left = yield from self._run(plan_batches(left, limits))
            left.sort(key=lambda chain: chain.tokens.tolist())

    def _run(self, batches: Sequence[Batch]) -> Generator[tuple[Batch, ReadBatch], None, list[Chain]]:
        """Results one batch late, so that the device always has one to compute; returns the chains that are left."""
        before: tuple[Batch, RunningBatch] | None = None
        for number, batch in enumerate(batches):
            running = self._start(batch)
            if before is not None:
                yield before[0], before[1].fetch()
            if running is None:
                self._shrink(batch)
                return [chain for later in batches[number:] for chain in later.chains]
            before = (batch, running)
        if before is not None:
            yield before[0], before[1].fetch()
        return []

    def _start(self, batch: Batch) -> RunningBatch | None:
        """None where memory does not suffice."""
        try:
            running = self._forward.start(batch)
        except RuntimeError as failure:
            if not is_out_of_memory(failure):
                raise
            return None
        tokens = sum(row.tokens for row in batch.rows)
        self._count(
            computed_tokens=running.trunk_tokens + tokens,
            padding_tokens=running.layout.tokens.size - tokens,
            read_positions=len(running.layout.reads),
            seen_keys=pairs_within(running.trunk_tokens) + sum(row.seen_keys for row in batch.rows),
        )
        return running

    def _shrink(self, batch: Batch) -> None:
        self._forward.forget_trunk()
        release_cached_memory(self._device)
        tokens = len(batch.rows) * batch.width
        if len(batch.chains) == 1 and len(batch.trunk) == 0:
            raise OutOfMemory(
                f"a single sequence of {tokens} tokens does not fit into memory",
                hint="use a device with more memory, a smaller dtype, or a task with shorter sequences",
            )
        self._token_budget = max(1, min(self._token_budget, tokens) // 2)
        self._longest = min(self._longest, self._token_budget)
        self._report(f"out of memory with {tokens} tokens at once: going on with at most {self._token_budget}")

    def _count(self, **more: int) -> None:
        self.work = Work(**{name: getattr(self.work, name) + more.get(name, 0) for name in Work.__dataclass_fields__})


def _model_limits(loaded: "LoadedModel") -> ModelLimits:
    model: Any = loaded.model
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    return ModelLimits(context_length(loaded), min(int(embedding.weight.shape[0]) for embedding in embeddings))


def _shape(loaded: "LoadedModel") -> Shape | None:
    try:
        return read_shape(loaded.model.config.to_dict())
    except Unsupported:
        return None


def _requested_tokens(requests: Sequence[TokenRequest], limits: ModelLimits) -> int:
    lengths = (len(request.context) + len(request.continuation) - 1 for request in requests if request.continuation)
    return sum(min(length, limits.context_length) for length in lengths)


def _answers(found: ReadBatch) -> Iterator[tuple[int, Answer]]:
    """Summed in float64, in the order of the tokens."""
    starts = np.cumsum([0, *(len(reading.continuation) for reading in found.readings[:-1])])
    sums = np.add.reduceat(found.log_likelihoods.astype(np.float64), starts).tolist()
    greedy = np.logical_and.reduceat(found.greedy, starts).tolist()
    for reading, log_likelihood, first in zip(found.readings, sums, greedy, strict=True):
        for request in reading.requests:
            yield request, Answer(log_likelihood, first, reading.dropped_tokens)
