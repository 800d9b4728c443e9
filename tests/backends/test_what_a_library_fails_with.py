"""What the exceptions of a library without classes of its own for them are taken for."""

import re

import pytest

from harness.backends.refusals import Wording, explain
from harness.contract import Reason
from harness.errors import OutOfMemory, Unsupported, WorkerError

WORDING = Wording("some library", re.compile("no room"), ((Reason.FORMAT, re.compile("unknown layout")),))


class OutOfMemoryError(RuntimeError):
    """As torch has one, by its name."""


@pytest.mark.parametrize("failure", [MemoryError("x"), OutOfMemoryError("x"), RuntimeError("there is no room for it")])
def test_too_little_memory_is_known_by_class_or_words(failure: Exception) -> None:
    found = explain(failure, WORDING, doing="loading")
    assert isinstance(found, OutOfMemory)
    assert found.message == f"some library found too little memory: {failure}"
    assert found.hint


def test_a_refusal_is_known_by_its_words_and_anything_else_stays_a_failure() -> None:
    refused = explain(ValueError("unknown layout"), WORDING, doing="loading")
    assert isinstance(refused, Unsupported)
    assert refused.reason is Reason.FORMAT
    other = explain(ValueError("whatever"), WORDING, doing="loading")
    assert type(other) is WorkerError
    assert other.message == "some library failed while loading: ValueError: whatever"
