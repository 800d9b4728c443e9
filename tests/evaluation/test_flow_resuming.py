"""Outcomes on disk while an evaluation runs: what of an interrupted attempt counts, and what does not."""

from pathlib import Path

import pytest

from harness.contract import RESUME_NAME
from harness.contract.items import SegmentItem
from harness.evaluation import resuming
from harness.evaluation.resuming import KeptOutcomes, discard

FINGERPRINT = "a" * 64


def segment(index: int) -> SegmentItem:
    return SegmentItem(index=index, negative_log_likelihood=index / 3, tokens=5)


def open_kept(output: Path, *, fingerprint: str = FINGERPRINT, count: int = 10) -> KeptOutcomes[SegmentItem]:
    return KeptOutcomes(output, fingerprint, SegmentItem, count)


def leave(output: Path, *indices: int) -> Path:
    """What an attempt that finished these items leaves behind."""
    with open_kept(output) as kept:
        for index in indices:
            kept.add(index, segment(index))
    return output / RESUME_NAME / "items.jsonl"


def test_a_later_attempt_finds_what_an_earlier_one_kept(tmp_path: Path) -> None:
    leave(tmp_path, 4, 0, 7)
    with open_kept(tmp_path) as kept:
        assert len(kept.items) == 3
        kept.add(2, segment(2))
        assert kept.items == {index: segment(index) for index in (0, 2, 4, 7)}
    with open_kept(tmp_path) as kept:
        assert sorted(kept.items) == [0, 2, 4, 7]


def test_items_of_something_else_do_not_count(tmp_path: Path) -> None:
    leave(tmp_path, 0, 1)
    with open_kept(tmp_path, fingerprint="b" * 64) as kept:
        assert len(kept.items) == 0
        kept.add(5, segment(5))
    with open_kept(tmp_path) as kept:
        assert len(kept.items) == 0, "the file now belongs to the other fingerprint, and was begun again"


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_line_that_was_cut_off_is_dropped_and_the_file_goes_on_whole(tmp_path: Path, cut: int) -> None:
    path = leave(tmp_path, 0, 1, 2)
    path.write_bytes(path.read_bytes()[:-cut])
    with open_kept(tmp_path) as kept:
        assert len(kept.items) == 2
        kept.add(2, segment(2))
    assert path.read_bytes() == leave(tmp_path / "whole", 0, 1, 2).read_bytes()


def test_a_head_that_was_cut_off_starts_anew(tmp_path: Path) -> None:
    path = leave(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    with open_kept(tmp_path) as kept:
        assert len(kept.items) == 0
        kept.add(3, segment(3))
    with open_kept(tmp_path) as kept:
        assert sorted(kept.items) == [3]


@pytest.mark.parametrize(
    "line", [b"\0\0\0\0\n", b'{"index": 1}\n', b'{"index":99,"negative_log_likelihood":1,"tokens":5}\n']
)
def test_nothing_after_a_damaged_line_counts(tmp_path: Path, line: bytes) -> None:
    path = leave(tmp_path, 0, 1, 2)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line, *lines[3:]]))
    with open_kept(tmp_path) as kept:
        assert sorted(kept.items) == [0]


def test_an_item_that_was_kept_twice_counts_once(tmp_path: Path) -> None:
    path = leave(tmp_path, 0, 1)
    path.write_bytes(path.read_bytes() + segment(1).model_dump_json().encode() + b"\n")
    with open_kept(tmp_path) as kept:
        assert kept.items == {0: segment(0), 1: segment(1)}


def test_outcomes_reach_the_disk_when_asked_and_every_twenty_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(resuming.time, "monotonic", lambda: seconds[0])
    path = tmp_path / RESUME_NAME / "items.jsonl"
    kept = open_kept(tmp_path)
    with kept:
        kept.add(0, segment(0))
        assert path.read_bytes().count(b"\n") == 1
        kept.write()
        assert path.read_bytes().count(b"\n") == 2
        seconds[0] = 19.0
        kept.add(1, segment(1))
        assert path.read_bytes().count(b"\n") == 2
        seconds[0] = 20.0
        kept.add(2, segment(2))
        assert path.read_bytes().count(b"\n") == 4


def test_nothing_is_left_once_it_is_discarded(tmp_path: Path) -> None:
    with open_kept(tmp_path) as kept:
        kept.add(0, segment(0))
    discard(tmp_path)
    assert list(tmp_path.iterdir()) == []
