"""Cutting a task into pieces, and putting the answers to a piece together again."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import DeviceKind
from harness.evaluation.pieces import Answered, Piece, PieceSize, answer_piece, cut_pieces
from harness.evaluation.prepared import Answer, TokenRequest

REQUEST = st.builds(
    TokenRequest,
    context=st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple),
    continuation=st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple),
)
ITEMS = st.lists(st.lists(REQUEST, min_size=1, max_size=4).map(tuple), max_size=25)
SIZES = st.builds(PieceSize, tokens=st.integers(1, 60), items=st.integers(1, 8))


@dataclass
class FixedTask:
    items: Sequence[tuple[TokenRequest, ...]]

    def __len__(self) -> int:
        return len(self.items)

    def requests(self, index: int) -> tuple[TokenRequest, ...]:
        return self.items[index]


class ShufflingScorer:
    """Answers in any order; the likelihood of a request is minus its length."""

    def score(self, requests: Sequence[TokenRequest]) -> Iterator[tuple[int, Answer]]:
        places = list(range(len(requests)))
        random.Random(len(requests)).shuffle(places)
        for place in places:
            request = requests[place]
            yield place, Answer(-len(request.context) - len(request.continuation) / 10, greedy=False)


def question(preamble: Sequence[int], length: int, choices: int = 2) -> tuple[TokenRequest, ...]:
    context = (*preamble, *range(100, 100 + length))
    return tuple(TokenRequest(context, (number,)) for number in range(choices))


@given(ITEMS, SIZES)
def test_every_item_is_in_one_piece_and_all_are_in_order(items, size) -> None:
    pieces = list(cut_pieces(FixedTask(items), size))
    assert [index for piece in pieces for index in piece.items] == list(range(len(items)))
    assert [requests for piece in pieces for requests in piece.requests] == items
    assert all(1 <= len(piece.items) <= size.items for piece in pieces)


@given(ITEMS, SIZES, st.sets(st.integers(0, 24)))
def test_finished_items_are_left_out_without_moving_the_cuts(items, size, done) -> None:
    whole = list(cut_pieces(FixedTask(items), size))
    rest = list(cut_pieces(FixedTask(items), size, done=done))
    expected = [tuple(index for index in piece.items if index not in done) for piece in whole]
    assert [piece.items for piece in rest] == [left for left in expected if left]


def test_a_piece_ends_before_its_tokens_exceed_the_size() -> None:
    task = FixedTask([question((), 10) for _ in range(6)])
    alike = [piece.items for piece in cut_pieces(task, PieceSize(tokens=16, items=100))]
    assert alike == [(0, 1, 2), (3, 4, 5)], "a repeated context counts once: 12, 2 and 2 tokens"
    distinct = FixedTask([question((number,), 10) for number in range(6)])
    assert [piece.items for piece in cut_pieces(distinct, PieceSize(tokens=26, items=100))] == [(0, 1), (2, 3), (4, 5)]


def test_a_shared_preamble_counts_once_a_piece() -> None:
    preamble = tuple(range(1, 51))
    task = FixedTask([question((*preamble, 60 + number), 5) for number in range(8)])
    pieces = list(cut_pieces(task, PieceSize(tokens=50 + 4 * 8, items=100)))
    assert [len(piece.items) for piece in pieces] == [4, 4]


def test_an_item_larger_than_the_size_is_a_piece_of_its_own() -> None:
    task = FixedTask([question((), 3), question((7,), 500), question((8,), 3)])
    assert [piece.items for piece in cut_pieces(task, PieceSize(tokens=20, items=9))] == [(0,), (1,), (2,)]


def test_larger_models_get_smaller_pieces_and_several_processes_get_several() -> None:
    small = PieceSize.suiting(DeviceKind.CPU, 10**8, items=10_000, processes=1)
    large = PieceSize.suiting(DeviceKind.CPU, 10**10, items=10_000, processes=1)
    assert small.tokens > 50 * large.tokens
    assert PieceSize.suiting(DeviceKind.CPU, 10**15, items=5, processes=1) == PieceSize(tokens=1, items=5)
    shared = PieceSize.suiting(DeviceKind.CUDA, 10**8, items=80, processes=2)
    assert shared.items == 5


@given(ITEMS.filter(len))
def test_answers_come_back_to_their_items_in_the_order_of_the_requests(items) -> None:
    piece = Piece(tuple(range(40, 40 + len(items))), tuple(items))
    batches = list(answer_piece(ShufflingScorer(), piece))
    answered = dict(entry for batch in batches for entry in batch.items)
    assert [batch.ends_piece for batch in batches] == [False] * (len(batches) - 1) + [True]
    assert sorted(answered) == list(piece.items)
    for index, requests in zip(piece.items, piece.requests, strict=True):
        expected = [-len(one.context) - len(one.continuation) / 10 for one in requests]
        assert [answer.log_likelihood for answer in answered[index]] == pytest.approx(expected)


def test_finished_items_are_handed_over_while_the_piece_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr("harness.evaluation.pieces.time.monotonic", lambda: next(clock))
    piece = Piece((0, 1, 2), tuple(question((), length, choices=1) for length in (1, 2, 3)))
    batches = list(answer_piece(ShufflingScorer(), piece))
    assert [len(batch.items) for batch in batches] == [1, 1, 1, 0]
    assert batches[-1] == Answered((), ends_piece=True)


def test_an_item_without_requests_is_answered_by_nothing() -> None:
    (batch,) = answer_piece(ShufflingScorer(), Piece((3, 4), ((), question((), 2, choices=1))))
    assert [(index, len(answers)) for index, answers in batch.items] == [(3, 0), (4, 1)]


def test_a_scorer_that_forgets_a_request_is_found_out() -> None:
    class Forgetful(ShufflingScorer):
        def score(self, requests: Sequence[TokenRequest]) -> Iterator[tuple[int, Answer]]:
            yield from list(super().score(requests))[1:]

    with pytest.raises(RuntimeError, match="left 1 of 2 items unanswered"):
        list(answer_piece(Forgetful(), Piece((0, 1), (question((), 2), question((), 3)))))


def test_a_likelihood_keeps_what_a_float32_holds_and_no_more() -> None:
    class Exact:
        def score(self, requests: Sequence[TokenRequest]) -> Iterator[tuple[int, Answer]]:
            yield 0, Answer(-1.2345678901234567, greedy=True, dropped_tokens=2)
            yield 1, Answer(float("nan"), greedy=False)

    (batch,) = answer_piece(Exact(), Piece((0,), (question((), 2),)))
    ((_, (first, second)),) = batch.items
    assert first == Answer(-1.2345679, greedy=True, dropped_tokens=2)
    assert second.log_likelihood != second.log_likelihood


@given(ITEMS, SIZES, st.sets(st.integers(0, 24)), st.sets(st.integers(0, 24)))
def test_pieces_of_some_items_hold_these_and_no_others(items, size, some, done) -> None:
    among = sorted(number for number in some if number < len(items))
    pieces = list(cut_pieces(FixedTask(items), size, among=among, done=done))
    assert [index for piece in pieces for index in piece.items] == [one for one in among if one not in done]
