"""Log-likelihoods as deployed: the logits of a prompt's own positions, from the same file and kernels that are timed.

As in the reference, the last token of a request is never computed on, so that nothing of a full context is lost.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.backends.llama_cpp.loading import Prepared, load, notes_of, prepare
from harness.backends.llama_cpp.session import Session
from harness.contract import Device, Dtype, Reason
from harness.errors import Unsupported
from harness.evaluation.engine import EngineFacts
from harness.evaluation.prepared import Answer, TokenRequest

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class LlamaCppScorer:
    """A checkpoint that scores up to `sequences` requests at once, each of up to `context_tokens - 1` tokens."""

    session: Session
    prepared: Prepared
    context_tokens: int
    sequences: int
    load_seconds: float

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts(
            dtype=self.prepared.dtype,
            dtype_reason=self.prepared.dtype_reason,
            load_seconds=self.load_seconds,
            quantization_note=None,
            notes=("scored by llama.cpp from the logits of the prompt", *notes_of(self.prepared, self.session)),
        )

    def score(self, requests: Sequence[TokenRequest]) -> Iterator[tuple[int, Answer]]:
        """The index of each request and its answer, in order. A continuation without tokens gets NaN.

        Raises:
            Unsupported: a continuation leaves no room for a token of context.
            WorkerError: llama.cpp did not compute it, for the reason that it logged.
        """
        numbered = list(enumerate(requests))
        for start in range(0, len(numbered), self.sequences):
            batch = numbered[start : start + self.sequences]
            asked = [(index, request, self._tokens(request)) for index, request in batch if request.continuation]
            answers = dict(self._answers(asked))
            for index, _ in batch:
                yield index, answers.get(index, Answer(math.nan, greedy=False))

    def _tokens(self, request: TokenRequest) -> list[int]:
        room = self.context_tokens - 1
        if len(request.continuation) >= room:
            raise Unsupported(
                Reason.SHAPE,
                f"a continuation has {len(request.continuation)} tokens, and up to {room - 1} can be scored"
                f" after a context, in {room - 1} positions",
                hint="choose a task with shorter answers, or a model with a longer context",
            )
        return [*request.context, *request.continuation][-room:]

    def _answers(self, asked: Sequence[tuple[int, TokenRequest, list[int]]]) -> Iterator[tuple[int, Answer]]:
        if not asked:
            return
        rows = [tokens[:-1] for *_, tokens in asked]
        counts = [len(request.continuation) for _, request, _ in asked]
        found: list[list[tuple[float, bool]]] = [[] for _ in asked]
        for number, first, logits in self.session.last_logits(rows, counts):
            tokens, count = asked[number][2], counts[number]
            targets = torch.tensor(tokens[len(tokens) - count + first :][: len(logits)])
            for part in range(0, len(logits), _ROWS_AT_ONCE):
                found[number] += _judge(torch.from_numpy(logits[part : part + _ROWS_AT_ONCE]), targets[part:])
        for (index, request, tokens), judged in zip(asked, found, strict=True):
            dropped = len(request.context) + len(request.continuation) - len(tokens)
            likelihood = math.fsum(one for one, _ in judged)
            yield index, Answer(likelihood, greedy=all(one for _, one in judged), dropped_tokens=dropped)


@contextmanager
def open_scorer(
    checkpoint: Path,
    device: Device,
    dtype: Dtype | None,
    *,
    context_tokens: int,
    sequences: int,
    step_tokens: int = 2048,
    work: Path,
) -> Iterator[LlamaCppScorer]:
    """Load `checkpoint` for scoring. Raises as `harness.backends.llama_cpp.loading` says.

    `step_tokens` bounds the positions of one step. Each takes a float32 logit for every token of the vocabulary.
    """
    with (
        prepare(checkpoint, device, dtype, context_tokens=context_tokens, work=work) as prepared,
        load(
            prepared, device, sequences=sequences, kv_tokens=sequences * context_tokens, step_tokens=step_tokens
        ) as loaded,
    ):
        yield LlamaCppScorer(loaded.session, prepared, context_tokens, sequences, loaded.seconds)


def _judge(logits: torch.Tensor, targets: torch.Tensor) -> list[tuple[float, bool]]:
    """The log-likelihood of each row's target in nats, and whether it is the likeliest; `logits` [rows, vocabulary]."""
    wide, chosen = logits.double(), targets[: len(logits)]
    likelihoods = wide.gather(1, chosen[:, None])[:, 0] - torch.logsumexp(wide, dim=1)
    return list(zip(likelihoods.tolist(), (logits.argmax(dim=1) == chosen).tolist(), strict=True))
