"""Prefill and decoding told apart where a library returns only once all tokens are there."""

import pytest

from harness.backends.base import TimedRun
from harness.backends.differences import Batch, time_by_difference
from harness.errors import WorkerError


def timed(first: Batch, whole: Batch) -> tuple[TimedRun, list[int]]:
    asked: list[int] = []

    def generate(tokens: int) -> Batch:
        asked.append(tokens)
        return first if tokens == 1 else whole

    return time_by_difference("some library", generate, batch_size=2, generate_tokens=5), asked


FIRST = Batch((1, 1), 0.5, ((7,), (8,)))
WHOLE = Batch((5, 4), 2.0, ((7, 1, 2, 3, 4), (8, 1, 2, 3)))


def test_the_decoding_is_what_more_tokens_take_longer() -> None:
    run, asked = timed(FIRST, WHOLE)
    assert asked == [1, 5]
    assert (run.generated_tokens, run.prefill_seconds, run.decode_seconds) == ((5, 4), 0.5, 1.5)
    assert run.generated == WHOLE.generated


@pytest.mark.parametrize(
    ("first", "seconds", "words"),
    [
        (Batch((1,), 0.5, ((7,),)), 2.0, r"some library generated \(1,\) tokens instead of one in each of 2 sequences"),
        (Batch((1, 2), 0.5, ((7,), (8, 9))), 2.0, r"some library generated \(1, 2\) tokens instead of one"),
        (FIRST, 0.5, r"some library took 0\.5000 s for 5 tokens and 0\.5000 s for one"),
        (FIRST, 0.4, r"some library took 0\.4000 s for 5 tokens and 0\.5000 s for one"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(first: Batch, seconds: float, words: str) -> None:
    with pytest.raises(WorkerError, match=words) as refused:
        timed(first, Batch(WHOLE.counts, seconds, WHOLE.generated))
    assert refused.value.hint
