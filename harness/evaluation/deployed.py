"""Accuracy as deployed: a task's requests answered by the backend that is to serve the checkpoint.

Which backends can: those that give the log-likelihoods of a prompt's own tokens. See docs/evaluation.md.
"""

import difflib
import importlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from harness.contract import REFERENCE_ENGINE, EvaluateParameters, Reason
from harness.errors import BadRequest, Unsupported
from harness.evaluation.engine import EngineFacts, EngineJob, TokenCounts
from harness.evaluation.pieces import Answered, Piece, answer_piece
from harness.evaluation.prepared import PreparedTask, TokenRequest

_STEP_TOKENS = 2048
"""Tokens of one step, where none are asked for. Each takes a float32 logit for every token of the vocabulary."""
_STEPS_AT_HAND = 2
_MOST_SEQUENCES = 64


@dataclass(frozen=True)
class ScoringBackend:
    """`module` has `open_scorer`. Of a full context, `lost_positions` fewer are used than by the reference."""

    name: str
    module: str
    lost_positions: int


_BACKENDS = {one.name: one for one in (ScoringBackend("vllm", "harness.backends.vllm.scoring", lost_positions=2),)}


def find_scoring_backend(parameters: EvaluateParameters) -> ScoringBackend | None:
    """The backend that `parameters.engine` names; None for the reference.

    Raises:
        Unsupported: there is none, or it gives no log-likelihoods.
        BadRequest: several processes are asked of it.
    """
    name = parameters.engine
    if name == REFERENCE_ENGINE:
        return None
    if name not in _BACKENDS:
        known = (REFERENCE_ENGINE, *_BACKENDS)
        nearest = difflib.get_close_matches(name, known, n=1)
        raise Unsupported(
            Reason.BACKEND,
            f"{name!r} is no engine that gives the log-likelihoods of a prompt's tokens here",
            hint=f"{f'did you mean {nearest[0]!r}? ' if nearest else ''}The engines are: {', '.join(known)}",
        )
    if parameters.processes != 1:
        raise BadRequest(
            f"{name} works in one process, and {parameters.processes} are asked for",
            hint="leave `processes` at 1; the engine batches by itself",
        )
    return _BACKENDS[name]


class DeployedEngine:
    """A `harness.evaluation.engine.Engine` over a backend's scorer, loaded for requests of up to `longest` tokens.

    Raises what the backend's `open_scorer` and its scorer raise.
    """

    def __init__(self, backend: ScoringBackend, job: EngineJob, longest: int) -> None:
        step_tokens = job.token_budget or _STEP_TOKENS
        self._room = longest
        self._tokens = TokenCounts()
        self._opened = ExitStack()
        module = importlib.import_module(backend.module)
        self._scorer: Any = self._opened.enter_context(
            module.open_scorer(
                job.checkpoint,
                job.device,
                job.dtype,
                context_tokens=longest + 1,
                sequences=max(1, min(_MOST_SEQUENCES, _STEPS_AT_HAND * step_tokens // longest)),
                step_tokens=step_tokens,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def tokens(self) -> TokenCounts:
        return self._tokens

    def facts(self) -> EngineFacts:
        facts: EngineFacts = self._scorer.facts
        return facts

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
