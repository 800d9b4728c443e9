"""What is said of a document that is wrong, and of two that differ: the field, whatever a number's form."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from harness.contract import EVENT, FINAL_EVENT, ResultEvent
from orchestrator.documents import first_difference, why_invalid

ANSWER: dict[str, Any] = {
    "event": "result",
    "id": "x",
    "wall_seconds": 1,
    "environment": {
        "harness_digest": "none",
        "python": "none",
        "platform": "sh",
        "device_kind": "cpu",
        "device_model": "any",
        "threads": 1,
        "libraries": {},
    },
    "result": {
        "operation": "profile",
        "disk_bytes": 1,
        "weight_bytes": 1,
        "parameter_count": 1,
        "macs": {"macs/shape": 1},
        "macs_tokens": 1,
        "memory": {"peak_memory_bytes": 0, "method": "peak-rss"},
        "kv_cache_bytes": 0,
        "protocol": "p",
        "dtype": "float32",
        "dtype_reason": "r",
    },
}


def changed(path: str, value: object) -> dict[str, Any]:
    document = json.loads(json.dumps(ANSWER))
    *above, last = path.split(".")
    inner = document
    for name in above:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return document


def parsed(document: dict[str, Any]) -> ResultEvent:
    final = FINAL_EVENT.validate_json(json.dumps(document))
    assert isinstance(final, ResultEvent)
    return final


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("environment.threads", 0, "environment.threads: Input should be greater than 0, not 0"),
        ("result.memory.method", None, "result.memory.method: Field required"),
        ("result.memory.colour", "red", "result.memory.colour: Extra inputs are not permitted"),
        ("result.macs", {"macs/shape": "many"}, "result.macs.macs/shape"),
        ("result.operation", "levitate", "result: Input tag 'levitate'"),
        ("event", "cheer", "Input tag 'cheer'"),
    ],
)
def test_the_field_the_reason_and_the_value_are_named(path: str, value: object, words: str) -> None:
    text = json.dumps(changed(path, value))
    with pytest.raises(ValidationError) as caught:
        EVENT.validate_json(text)
    assert words in why_invalid(caught.value, text)


def test_what_is_no_json_is_called_so() -> None:
    with pytest.raises(ValidationError) as caught:
        EVENT.validate_json("hello")
    assert why_invalid(caught.value, "hello").startswith("Invalid JSON")


@pytest.mark.parametrize(
    ("path", "value"),
    [("wall_seconds", 1.0), ("result.notes", []), ("contract", 1), ("result.kv_cache_bytes", 0.0)],
)
def test_the_same_values_are_the_same_document(path: str, value: object) -> None:
    assert first_difference(parsed(ANSWER), parsed(changed(path, value))) is None


def test_a_left_out_optional_and_null_are_the_same() -> None:
    document = json.loads(json.dumps(ANSWER))
    document["environment"]["driver"] = None
    assert first_difference(parsed(ANSWER), parsed(document)) is None


@pytest.mark.parametrize(
    ("path", "value"), [("wall_seconds", 2), ("result.macs", {"macs/shape": 2}), ("result.notes", ["a"])]
)
def test_the_first_field_that_differs_is_named_with_both_values(path: str, value: object) -> None:
    said = first_difference(parsed(ANSWER), parsed(changed(path, value)))
    assert said is not None
    assert said.startswith(path)
    assert " here, " in said
