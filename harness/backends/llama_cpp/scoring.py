"""Log-likelihoods as deployed: the logits of a prompt's own positions, from the same file and kernels that are timed.

As in the reference, the last token of a request is never computed on, so that nothing of a full context is lost.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.backends.llama_cpp.loading import Prepared, load, notes_of, prepare
from harness.backends.llama_cpp.session import Session
from harness.contract import Device, Dtype
from harness.evaluation.deployed import Asked, Distributions, answer_in_batches
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
        return answer_in_batches(requests, self._answers, sequences=self.sequences, context_tokens=self.context_tokens)

    def distributions(self, requests: Sequence[TokenRequest]) -> Iterator[Distributions]:
        """The whole of each. Raises WorkerError as `score` does."""
        for start in range(0, len(requests), self.sequences):
            batch = requests[start : start + self.sequences]
            rows = [[*one.context, *one.continuation[:-1]] for one in batch]
            for number, first, logits in self.session.last_logits(rows, [len(one.continuation) for one in batch]):
                yield Distributions(start + number, first, torch.from_numpy(logits))

    def _answers(self, asked: Sequence[Asked]) -> list[Answer]:
        places = [one.continuation for one in asked]
        found: list[list[tuple[float, bool]]] = [[] for _ in asked]
        rows = [one.tokens[:-1] for one in asked]
        for number, first, logits in self.session.last_logits(rows, [len(one) for one in places]):
            targets = torch.tensor([asked[number].tokens[place] for place in places[number][first:]])
            for part in range(0, len(logits), _ROWS_AT_ONCE):
                found[number] += _judge(torch.from_numpy(logits[part : part + _ROWS_AT_ONCE]), targets[part:])
        return [one.answer(judged) for one, judged in zip(asked, found, strict=True)]


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
