"""A task's items cut into pieces of about equal work, and the answers to a piece put together again by item.

A piece is what one process works on at a time. It is cut by the work alone, not by the clock, so that an evaluation
that was interrupted meets the same pieces again.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from harness.contract import DeviceKind, Frozen
from harness.evaluation.outcomes import shortest_float32
from harness.evaluation.prepared import Answer, PreparedTask, TokenRequest

_PIECE_OPERATIONS = {DeviceKind.CPU: 4e12, DeviceKind.CUDA: 4e15}
"""Floating-point operations of a piece: some tens of seconds of a few cores, and of one large GPU."""
_MOST_ITEMS = 2048
_PIECES_A_PROCESS = 8
_HAND_OVER_SECONDS = 2.0

ItemAnswers = tuple[int, tuple[Answer, ...]]
"""An item's number and the answers to its requests, in their order."""


class RequestScorer(Protocol):
    """What answers token requests: each with its place in `requests`, in any order."""

    def score(self, requests: Sequence[TokenRequest]) -> Iterator[tuple[int, Answer]]: ...


@dataclass(frozen=True)
class Piece:
    """Neighbouring items by their numbers, with the requests of each."""

    items: tuple[int, ...]
    requests: tuple[tuple[TokenRequest, ...], ...]


@dataclass(frozen=True)
class Answered:
    """Items of one piece that are finished. With `ends_piece` they are its last."""

    items: tuple[ItemAnswers, ...]
    ends_piece: bool = False


@dataclass(frozen=True)
class PieceSize:
    """A piece ends before it exceeds `tokens` or `items`; it has at least one item."""

    tokens: int
    items: int

    @classmethod
    def suiting(cls, kind: DeviceKind, parameter_count: int, *, items: int, processes: int) -> "PieceSize":
        """About half a minute of work on a modest device; several pieces for each process where there are several."""
        share = items if processes == 1 else -(-items // (processes * _PIECES_A_PROCESS))
        tokens = _PIECE_OPERATIONS[kind] / (2 * parameter_count)
        return cls(tokens=max(1, int(tokens)), items=max(1, min(_MOST_ITEMS, share)))


def cut_pieces(
    task: PreparedTask[Frozen], size: PieceSize, *, among: Iterable[int] | None = None, done: Collection[int] = ()
) -> Iterator[Piece]:
    """The pieces of `task` in order, of the items `among` or of all. Items that are `done` count for the cuts, but are
    left out of their piece."""
    members: list[tuple[int, tuple[TokenRequest, ...]]] = []
    tokens = 0
    before: tuple[int, ...] = ()
    for index in range(len(task)) if among is None else among:
        requests = tuple(task.requests(index))
        new = _new_tokens(requests, before)
        if members and (tokens + new > size.tokens or len(members) == size.items):
            yield from _without(members, done)
            members, tokens, new = [], 0, _new_tokens(requests, ())
        members.append((index, requests))
        tokens += new
        before = requests[-1].context if requests else before
    yield from _without(members, done)


def answer_piece(scorer: RequestScorer, piece: Piece) -> Iterator[Answered]:
    """Score a piece; what is finished is handed over every two seconds, and at its end.

    Raises:
        RuntimeError: the scorer did not answer every request.
    """
    finished: list[ItemAnswers] = []
    handed_over = time.monotonic()
    for answered in _by_item(scorer, piece):
        finished.append(answered)
        if time.monotonic() - handed_over >= _HAND_OVER_SECONDS:
            yield Answered(tuple(finished))
            finished, handed_over = [], time.monotonic()
    yield Answered(tuple(finished), ends_piece=True)


def _by_item(scorer: RequestScorer, piece: Piece) -> Iterator[ItemAnswers]:
    """Each item as soon as its last request is answered."""
    owners = [(place, number) for place, requests in enumerate(piece.requests) for number in range(len(requests))]
    answers: list[dict[int, Answer]] = [{} for _ in piece.items]
    left = {place for place, requests in enumerate(piece.requests) if requests}
    yield from ((item, ()) for item, requests in zip(piece.items, piece.requests, strict=True) if not requests)
    for index, answer in scorer.score([request for requests in piece.requests for request in requests]):
        place, number = owners[index]
        answers[place][number] = replace(answer, log_likelihood=shortest_float32(answer.log_likelihood))
        if place in left and len(answers[place]) == len(piece.requests[place]):
            left.remove(place)
            yield piece.items[place], tuple(answer for _, answer in sorted(answers[place].items()))
    if left:
        raise RuntimeError(f"the scorer left {len(left)} of {len(piece.items)} items unanswered")


def _without(members: list[tuple[int, tuple[TokenRequest, ...]]], done: Collection[int]) -> Iterator[Piece]:
    left = [(index, requests) for index, requests in members if index not in done]
    if left:
        items, requests = zip(*left, strict=True)
        yield Piece(items, requests)


def _new_tokens(requests: Sequence[TokenRequest], before: tuple[int, ...]) -> int:
    """Tokens of the item that are not the beginning of the context before, which is usually computed only once."""
    tokens = 0
    for request in requests:
        tokens += len(request.context) - _common(before, request.context) + len(request.continuation)
        before = request.context
    return tokens


def _common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Length of the longest common beginning."""
    if left is right:
        return len(left)
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
