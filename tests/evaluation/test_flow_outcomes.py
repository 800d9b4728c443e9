"""The file of outcomes: what it holds, its bytes, and what is said of one that cannot be read."""

import json
from pathlib import Path

import numpy
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from harness.contract.items import ChoiceItem, SegmentItem
from harness.errors import BadRequest
from harness.evaluation.outcomes import ITEMS_NAME, read_items, shortest_float32, write_items

CHOICES = (
    ChoiceItem(
        index=0, document="0123456789abcdef", log_likelihoods=(-1.5, -2.25), gold=1, picked=0, picked_norm=1,
        correct={"acc": 0.0, "acc_norm": 1.0}, group="history",
    ),
    ChoiceItem(index=1, document="fedcba9876543210", log_likelihoods=(None, -3.0), gold=0),
)  # fmt: skip
SEGMENTS = (
    SegmentItem(index=0, negative_log_likelihood=12.5, tokens=7),
    SegmentItem(index=1, negative_log_likelihood=None, tokens=7),
)


@pytest.mark.parametrize("items", [CHOICES, SEGMENTS, ()])
def test_what_is_written_can_be_read(tmp_path: Path, items) -> None:
    kind = type(items[0]) if items else ChoiceItem
    name = write_items(items, tmp_path)
    assert read_items(tmp_path / name, kind) == items
    assert [path.name for path in tmp_path.iterdir()] == [ITEMS_NAME]


def test_any_zstandard_reader_finds_one_json_line_an_item(tmp_path: Path) -> None:
    packed = (tmp_path / write_items(CHOICES, tmp_path)).read_bytes()
    lines = zstandard.ZstdDecompressor().decompress(packed).decode().splitlines()
    assert [json.loads(line) for line in lines] == [item.model_dump(mode="json") for item in CHOICES]
    assert json.loads(lines[1])["log_likelihoods"] == [None, -3.0]


def test_the_same_items_give_the_same_bytes(tmp_path: Path) -> None:
    first = (tmp_path / write_items(CHOICES, tmp_path)).read_bytes()
    assert (tmp_path / write_items(CHOICES, tmp_path)).read_bytes() == first


def test_a_damaged_or_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / write_items(CHOICES, tmp_path)
    with pytest.raises(BadRequest, match=r"items\.jsonl\.zst cannot be read as outcomes of the kind SegmentItem"):
        read_items(path, SegmentItem)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(BadRequest, match="cannot be read"):
        read_items(path, ChoiceItem)
    with pytest.raises(BadRequest, match="cannot be read"):
        read_items(tmp_path / "absent", ChoiceItem)


@given(st.floats(allow_nan=False, width=64, min_value=-1e30, max_value=1e30))
def test_a_shortened_number_is_the_same_float32_in_no_more_than_nine_digits(value: float) -> None:
    short = shortest_float32(value)
    assert numpy.float32(short) == numpy.float32(value)
    assert len(f"{abs(short):e}".split("e")[0].replace(".", "").rstrip("0")) <= 9
