"""Log-likelihoods of choices: lm-eval's splitting of context and choice, our own forward passes.

`ChoiceScorer` is the one place that decides how requests are batched and run. lm-eval's Hugging Face model is not used
because importing it takes longer than scoring a small model, and because it holds the whole batch's logits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from torch import Tensor

from harness.contract import Reason
from harness.errors import Unsupported
from harness.evaluation.likelihood import TokenLikelihood, context_length

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

EncodedRequest = tuple[tuple[str, str], list[int], list[int]]
Likelihood = tuple[float, bool]


@dataclass(frozen=True)
class _Choice:
    """Tokens fed to the model, and the tokens that its last positions must predict."""

    index: int
    inputs: list[int]
    continuation: list[int]


class ChoiceScorer(TemplateLM):  # type: ignore[misc]  # lm-eval is untyped
    """Summed log-likelihood (nats) of a continuation given its context. `done` is told how many requests are finished.

    A continuation without tokens has no likelihood: it gets NaN. A context too long for the model loses its beginning.
    """

    def __init__(self, loaded: "LoadedModel", *, batch_size: int, done: Callable[[int, int], None]) -> None:
        super().__init__()
        self.tokenizer: Any = loaded.tokenizer
        self._likelihood = TokenLikelihood(loaded)
        self._context_length = context_length(loaded)
        self._batch_size = batch_size
        self._done = done

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a choice that has no context."""
        beginning = self.tokenizer.bos_token_id
        return self.eot_token_id if beginning is None else int(beginning)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokens of `string`, with the special tokens that the tokenizer adds by itself unless told otherwise."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        tokens: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return tokens

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise Unsupported(
            Reason.TASK, "this scorer compares choices only", hint="perplexity is a task of its own, such as wikitext2"
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        raise Unsupported(Reason.TASK, "this scorer compares choices only", hint="choose a multiple-choice task")

    def _loglikelihood_tokens(self, requests: list[EncodedRequest], **_: Any) -> list[Likelihood]:
        answers: list[Likelihood] = [(float("nan"), False)] * len(requests)
        choices = [self._choice(index, request) for index, request in enumerate(requests) if request[2]]
        choices.sort(key=lambda choice: -len(choice.inputs))
        finished = len(requests) - len(choices)
        for start in range(0, len(choices), self._batch_size):
            batch = choices[start : start + self._batch_size]
            for choice, answer in zip(batch, self._score(batch), strict=True):
                answers[choice.index] = answer
            finished += len(batch)
            self._done(finished, len(requests))
        return answers

    def _choice(self, index: int, request: EncodedRequest) -> _Choice:
        _, context, continuation = request
        if len(continuation) > self._context_length:
            raise Unsupported(
                Reason.SHAPE,
                f"a choice has {len(continuation)} tokens, the model takes {self._context_length}",
                hint="choose a task with shorter answers, or a model with a longer context",
            )
        return _Choice(index, (context + continuation)[-(self._context_length + 1) : -1], continuation)

    def _score(self, batch: list[_Choice]) -> list[Likelihood]:
        """Padding is on the right, where a causal model's earlier positions do not see it."""
        hidden = self._likelihood.hidden(_pad([choice.inputs for choice in batch]))
        rows = [
            hidden[row, len(choice.inputs) - len(choice.continuation) : len(choice.inputs)]
            for row, choice in enumerate(batch)
        ]
        targets = torch.tensor([token for choice in batch for token in choice.continuation])
        likelihoods, greedy = self._likelihood.of(torch.cat(rows), targets)
        lengths = [len(choice.continuation) for choice in batch]
        return [
            (float(tokens.double().sum()), bool(first.all()))
            for tokens, first in zip(torch.split(likelihoods, lengths), torch.split(greedy, lengths), strict=True)
        ]


def _pad(sequences: list[list[int]]) -> Tensor:
    """int64 [batch, longest], zeros after the end of each sequence."""
    padded = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = torch.tensor(sequence)
    return padded
