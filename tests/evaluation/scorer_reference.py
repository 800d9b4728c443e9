"""A plain loop to hold the scorer against: one request at a time, no batch, no cache, no shared beginning."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from harness.contract import Device, Dtype
from harness.evaluation.prepared import Answer, TokenRequest
from harness.models.loading import LoadedModel, load_model
from tests.support.small_checkpoints import publish_checkpoint


class PlainLoop:
    """Answers by their definition, with the log-softmax in float64; one pass for each sequence."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model: Any = loaded.model
        self._context_length = int(loaded.model.config.max_position_embeddings)
        self._logits: dict[tuple[int, ...], torch.Tensor] = {}

    def answer(self, request: TokenRequest) -> Answer:
        whole = (*request.context, *request.continuation)
        kept = whole[-(self._context_length + 1) :]
        logits = self._of(kept[:-1])[-len(request.continuation) :]
        wanted = torch.tensor(request.continuation)
        likelihoods = torch.log_softmax(logits.double(), dim=-1)[torch.arange(len(wanted)), wanted]
        return Answer(float(likelihoods.sum()), bool((logits.argmax(dim=-1) == wanted).all()), len(whole) - len(kept))

    def _of(self, sequence: tuple[int, ...]) -> torch.Tensor:
        if sequence not in self._logits:
            with torch.no_grad():
                self._logits[sequence] = self._model(torch.tensor([sequence]), use_cache=False).logits[0]
        return self._logits[sequence]


def assert_answers_equal(
    loaded: LoadedModel, requests: Sequence[TokenRequest], answers: dict[int, Answer], *, relative: float = 1e-5
) -> None:
    """Every request is answered, as the plain loop answers it."""
    assert sorted(answers) == list(range(len(requests)))
    plain = PlainLoop(loaded)
    for number, request in enumerate(requests):
        expected, found = plain.answer(request), answers[number]
        assert abs(found.log_likelihood - expected.log_likelihood) <= relative * abs(expected.log_likelihood), number
        assert replace(found, log_likelihood=0.0) == replace(expected, log_likelihood=0.0), number


def tokens(random: Random, count: int, vocabulary: int = 256) -> tuple[int, ...]:
    return tuple(random.randrange(vocabulary) for _ in range(count))


def load_small(folder: Path, model: Any) -> LoadedModel:
    return load_model(publish_checkpoint(folder, model), Device(threads=1), Dtype.FLOAT32)


def silent(_: str) -> None:
    """A report that nobody reads."""
