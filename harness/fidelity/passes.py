"""Forward passes over sequences of text: batches of whole sequences in, last hidden states out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.contract import Reason
from harness.errors import OutOfMemory, Unsupported
from harness.evaluation.likelihood import context_length
from harness.evaluation.prepared import TokenRequest
from harness.evaluation.scorer.forward import Forward
from harness.evaluation.scorer.memory import choose_token_budget, is_out_of_memory, release_cached_memory

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel


@dataclass(frozen=True)
class Read:
    """The last hidden states [tokens predicted, hidden] of one request, by its number, on the model's device."""

    number: int
    states: Tensor


class Passes:
    """A model that reads sequences, several at a time of at most `batch_tokens` tokens; None chooses them from memory.

    `reason` says why it is so many.
    """

    def __init__(self, loaded: "LoadedModel", batch_tokens: int | None) -> None:
        self.forward = Forward(loaded)
        self.device = loaded.device
        self._longest = context_length(loaded)
        if batch_tokens is None:
            batch_tokens, _, self.reason = choose_token_budget(loaded)
        else:
            self.reason = "it was asked for"
        self.batch_tokens = batch_tokens

    def read(self, requests: Sequence[TokenRequest]) -> Iterator[Read]:
        """Of each request, in order.

        Raises:
            Unsupported: a sequence is longer than the model takes.
            OutOfMemory: one sequence alone does not fit.
        """
        for request in requests:
            if len(request.context) + len(request.continuation) - 1 > self._longest:
                raise Unsupported(
                    Reason.SHAPE,
                    f"a sequence has more than the {self._longest} tokens that the model takes",
                    hint="choose a task with shorter segments, for every model that is compared",
                )
        for batch in cut_batches(requests, 1 if self.forward.reason_against_batches else self.batch_tokens):
            yield from self._read(requests, batch)

    def _read(self, requests: Sequence[TokenRequest], batch: range) -> Iterator[Read]:
        try:
            states = self._states([requests[number] for number in batch])
        except RuntimeError as failure:
            if not is_out_of_memory(failure):
                raise
            release_cached_memory(self.device)
            if len(batch) == 1:
                raise OutOfMemory(
                    "a single sequence does not fit into memory",
                    hint="use a device with more memory, a smaller dtype, or a task with shorter segments",
                ) from failure
            middle = len(batch) // 2
            yield from self._read(requests, batch[:middle])
            yield from self._read(requests, batch[middle:])
            return
        for row, number in enumerate(batch):
            begin = len(requests[number].context) - 1
            yield Read(number, states[row, begin : begin + len(requests[number].continuation)])

    def _states(self, batch: Sequence[TokenRequest]) -> Tensor:
        """[rows, length, hidden]. What fills a shorter row up stands behind it, where no token of it looks."""
        rows = [request.context + request.continuation[:-1] for request in batch]
        tokens = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.int64)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row)
        return self.forward.states(tokens)


def cut_batches(requests: Sequence[TokenRequest], batch_tokens: int) -> Iterator[range]:
    """Neighbours of at most `batch_tokens` tokens together with what fills them up, or one by itself."""
    begin, longest = 0, 0
    for number, request in enumerate(requests):
        length = len(request.context) + len(request.continuation) - 1
        if number > begin and (number + 1 - begin) * max(longest, length) > batch_tokens:
            yield range(begin, number)
            begin, longest = number, 0
        longest = max(longest, length)
    if begin < len(requests):
        yield range(begin, len(requests))
