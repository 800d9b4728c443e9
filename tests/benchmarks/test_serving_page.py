"""The page of speeds at a known model's shape: rounds give intervals; what is of one shape and card is one section."""

import json
import math
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.h200.serving_page import grouped, page

MEASURED = Path(__file__).parents[2] / "benchmarks" / "h200" / "serving-llama-3-8b.json"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SPEEDS = {
    ("dense", 1, False): 100.0,
    ("w4a16", 1, False): 161.0,
    ("dense", 1, True): 101.0,
    ("dense", 2, False): 90.0,
    ("w4a16", 2, False): 144.0,
    ("dense", 2, True): 91.0,
    ("dense", 3, False): 110.0,
    ("w4a16", 3, False): 174.0,
    ("dense", 3, True): 109.0,
}
"""Tokens a second by variant, round and whether it is dense again, in the order of measuring."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Three rounds of vLLM at batch 1, made of one row that was measured."""
    kept: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    template = next(row for row in kept["rows"] if row["backend"] == "vllm")
    rows = []
    for number, ((variant, turn, again), speed) in enumerate(SPEEDS.items()):
        row = deepcopy(template)
        row |= {"variant": variant, "round": turn, "again": again, "batch_sizes": [1]}
        row |= {
            name: (BEGIN + timedelta(minutes=2 * number + later)).isoformat()
            for name, later in (("begun", 0), ("ended", 1))
        }
        row["result"]["speeds"] = [{**row["result"]["speeds"][0], "decode_tokens_per_second": speed}]
        rows.append(row)
    return {**kept, "rows": rows}


def test_a_ratio_over_rounds_is_that_of_the_geometric_means_with_an_interval(document: dict[str, Any]) -> None:
    (measured,) = grouped([document])
    found = measured.ratio(("w4a16", "vllm", 1))
    assert found is not None and found[1] is not None
    own = [speed for (variant, _, _), speed in SPEEDS.items() if variant == "w4a16"]
    dense = [speed for (variant, _, _), speed in SPEEDS.items() if variant == "dense"]
    assert found[0] == pytest.approx(math.prod(own) ** (1 / 3) / math.prod(dense) ** (1 / 6))
    assert 1.5 < found[1].low < found[0] < found[1].high < 1.7
    assert "| W4A16 g128 | 159.2 (1.59x [" in page([measured], "plot.svg", "")


def test_what_a_later_document_measured_is_a_round_of_its_own(document: dict[str, Any]) -> None:
    rounds = [{**document, "rows": [row for row in document["rows"] if row["round"] == number]} for number in (1, 2, 3)]
    for one in rounds[1:]:
        one["rows"] = [{**row, "round": 1} for row in one["rows"]]
    (apart,), (together,) = grouped(rounds), grouped([document])
    key = ("w4a16", "vllm", 1)
    found, expected = apart.ratio(key), together.ratio(key)
    assert found is not None and expected is not None and found[1] is not None and expected[1] is not None
    assert found[0] == expected[0]
    assert (found[1].low, found[1].high) == pytest.approx((expected[1].low, expected[1].high), rel=1e-3)
    assert len(apart.speeds[key]) == len(SPEEDS) // 3


def test_one_measurement_has_no_interval_and_what_was_not_measured_a_dash(document: dict[str, Any]) -> None:
    (measured,) = grouped([{**document, "rows": document["rows"][:2]}])
    assert measured.ratio(("w4a16", "vllm", 1)) == (1.61, None)
    text = page([measured], "plot.svg", "")
    assert "| W4A16 g128 | 161.0 (1.61x) |" in text
    assert "| 2:4 | – |" in text  # noqa: RUF001  the page's dash


def test_backends_that_were_measured_side_by_side_are_one_section(document: dict[str, Any]) -> None:
    native = {**document, "rows": [{**row, "backend": "native"} for row in document["rows"]]}
    other = {**document, "device": "another card"}
    measured = grouped([document, native, other])
    assert [one.backends for one in measured] == [["vllm", "native"], ["vllm"]]
    assert page(measured, "plot.svg", "").count("## The shape of") == 2
