"""As deployed: requests answered, or their distributions given, by the backend that is to serve the checkpoint.

Which backends can: those that give the log-likelihoods of a prompt's own tokens. See docs/evaluation.md.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from harness.contract import REFERENCE_ENGINE, Reason, did_you_mean
from harness.errors import BadRequest, Unsupported
from harness.evaluation.engine import EngineFacts, EngineJob, TokenCounts
from harness.evaluation.pieces import Answered, Piece, RequestScorer, answer_piece
from harness.evaluation.prepared import Answer, PreparedTask, TokenRequest
from harness.operations import describe_image, offered_module

if TYPE_CHECKING:
    from torch import Tensor

_STEP_TOKENS = 2048
"""Tokens of one step, where none are asked for. Each takes a float32 logit for every token of the vocabulary."""
_STEPS_AT_HAND = 2
_MOST_SEQUENCES = 64


@dataclass(frozen=True)
class Likeliest:
    """Of n distributions the m tokens that are known, int64 [n, m], and their log-likelihoods in nats, float64 [n, m].

    -inf fills up a row that has fewer; its tokens there mean nothing.
    """

    tokens: "Tensor"
    log_likelihoods: "Tensor"


@dataclass(frozen=True)
class Distributions:
    """Of request `number` those of the continuation's tokens from `first` on, in order.

    `known` is float32 logits [n, vocabulary], or what is known of the likeliest tokens.
    """

    number: int
    first: int
    known: "Tensor | Likeliest"


class Scorer(RequestScorer, Protocol):
    """A loaded checkpoint that answers requests, several at a time."""

    @property
    def facts(self) -> EngineFacts: ...

    def distributions(self, requests: Sequence[TokenRequest]) -> Iterator[Distributions]:
        """Of every token of each continuation, in order. Each request fits into what the scorer was opened for."""


@dataclass(frozen=True)
class Scoring:
    """What the module of a backend that scores offers as its constant `SCORING`.

    Of a full context, `lost_positions` fewer are used than by the reference. Of a distribution it gives the `likeliest`
    so many tokens and the right one; all of it where that is None.
    """

    open_scorer: Callable[..., AbstractContextManager[Scorer]]
    lost_positions: int
    likeliest: int | None = None


@dataclass(frozen=True)
class ScoringBackend:
    """A backend of this image by its name."""

    name: str
    scoring: Scoring


def find_scoring_backend(name: str, processes: int = 1) -> ScoringBackend | None:
    """The backend of this `name`; None for the reference.

    Raises:
        Unsupported: this image offers none of that name that gives log-likelihoods.
        BadRequest: several processes are asked of it.
    """
    if name == REFERENCE_ENGINE:
        return None
    offered = [one for one in describe_image().backends if one.scores]
    known = [REFERENCE_ENGINE, *(one.name for one in offered)]
    if name not in known:
        raise Unsupported(
            Reason.BACKEND,
            f"{name!r} is no engine that gives the log-likelihoods of a prompt's tokens here"
            f"{did_you_mean(name, known)}",
            hint=f"the engines are: {', '.join(known)}",
        )
    if processes != 1:
        raise BadRequest(
            f"{name} works in one process, and {processes} are asked for",
            hint="leave `processes` at 1; the engine batches by itself",
        )
    return ScoringBackend(name, offered_module(offered, name, Reason.BACKEND).SCORING)


@dataclass(frozen=True)
class Asked:
    """A request with a continuation, and what of it is computed: the tail of `context + continuation` that has room."""

    request: TokenRequest
    tokens: list[int]

    @property
    def continuation(self) -> range:
        """The places in `tokens` of what is scored, from the first on."""
        return range(len(self.tokens) - len(self.request.continuation), len(self.tokens))

    def answer(self, judged: Sequence[tuple[float, bool]]) -> Answer:
        """From the log-likelihood in nats of each token of the continuation, and whether it was the likeliest."""
        return Answer(
            log_likelihood=math.fsum(likelihood for likelihood, _ in judged),
            greedy=all(likeliest for _, likeliest in judged),
            dropped_tokens=_length(self.request) - len(self.tokens),
        )


def answer_in_batches(
    requests: Sequence[TokenRequest],
    answers: Callable[[Sequence[Asked]], Sequence[Answer]],
    *,
    sequences: int,
    context_tokens: int,
) -> Iterator[tuple[int, Answer]]:
    """The index of each request and its answer, in order. A continuation without tokens gets NaN, and is not asked.

    `answers` is given up to `sequences` at once, each of up to `context_tokens - 1` tokens.

    Raises:
        Unsupported: a continuation leaves no room for a token of context.
    """
    room = context_tokens - 1
    for start in range(0, len(requests), sequences):
        batch = range(start, min(start + sequences, len(requests)))
        asked = {index: _within(requests[index], room) for index in batch if requests[index].continuation}
        found = dict(zip(asked, answers(list(asked.values())), strict=True)) if asked else {}
        for index in batch:
            yield index, found.get(index, Answer(math.nan, greedy=False))


def _within(request: TokenRequest, room: int) -> Asked:
    if len(request.continuation) >= room:
        raise Unsupported(
            Reason.SHAPE,
            f"a continuation has {len(request.continuation)} tokens, and up to {room - 1} can be scored"
            f" after a context, in {room} positions",
            hint="choose a task with shorter answers, or a model with a longer context",
        )
    return Asked(request, [*request.context, *request.continuation][-room:])


def open_scorer(backend: ScoringBackend, job: EngineJob, longest: int, work: Path) -> AbstractContextManager[Scorer]:
    """The backend's scorer of the checkpoint, with room for requests of up to `longest` tokens.

    `work` is a folder with room for a model, where the backend may put files and removes them again.
    """
    step_tokens = job.token_budget or _STEP_TOKENS
    return backend.scoring.open_scorer(
        job.checkpoint,
        job.device,
        job.dtype,
        context_tokens=longest + 1,
        sequences=max(1, min(_MOST_SEQUENCES, _STEPS_AT_HAND * step_tokens // longest)),
        step_tokens=step_tokens,
        work=work,
    )


class DeployedEngine:
    """A `harness.evaluation.engine.Engine` over a backend's scorer, opened as `open_scorer` says.

    Raises what the backend's `open_scorer` and its scorer raise.
    """

    def __init__(self, backend: ScoringBackend, job: EngineJob, longest: int, work: Path) -> None:
        self._room = longest
        self._tokens = TokenCounts()
        self._opened = ExitStack()
        self._scorer = self._opened.enter_context(open_scorer(backend, job, longest, work))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def tokens(self) -> TokenCounts:
        return self._tokens

    def facts(self) -> EngineFacts:
        return self._scorer.facts

    def answers(self, pieces: Iterable[Piece]) -> Iterator[Answered]:
        for piece in pieces:
            yield from answer_piece(self._scorer, piece)
            asked = [_length(request) for requests in piece.requests for request in requests if request.continuation]
            computed = sum(min(length, self._room) for length in asked)
            self._tokens += TokenCounts(asked=computed - len(asked), computed=computed)


def longest_request(prepared: PreparedTask[Any], context_length: int) -> int:
    """Tokens of the longest prompt, context and continuation together, within `context_length` and one after it."""
    lengths = (_length(request) for index in range(len(prepared)) for request in prepared.requests(index))
    return min(context_length + 1, max(lengths, default=1))


def _length(request: TokenRequest) -> int:
    return len(request.context) + len(request.continuation)
