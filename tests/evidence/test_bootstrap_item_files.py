"""Reading what an evaluation kept of each item: a file that is not as it should be costs the interval alone."""

import gzip
import json
import random

import numpy as np
import pytest
import zstandard

from orchestrator.evidence.items import ItemsFile, NoInterval, read_items
from tests.support.measured_runs import choices, pack, segments

OUTCOMES = [1.0, 0.0, 1.0, 1.0]


@pytest.fixture
def file(tmp_path):
    return ItemsFile(pack(tmp_path / "items.jsonl.zst", choices(OUTCOMES)), scored=4)


def read(path, lines, scored=4, metric="acc"):
    return read_items(ItemsFile(pack(path, lines), scored), metric)


@pytest.mark.parametrize("name", ["items.jsonl.zst", "items.jsonl.gz"])
def test_both_forms_are_read(tmp_path, name):
    assert read(tmp_path / name, choices(OUTCOMES)).values.tolist() == OUTCOMES


def test_several_frames_are_one_file(tmp_path):
    path = tmp_path / "items.jsonl.zst"
    lines = [json.dumps(line).encode() + b"\n" for line in choices(OUTCOMES)]
    path.write_bytes(b"".join(zstandard.compress(line) for line in lines))
    assert read_items(ItemsFile(path, 4), "acc").values.tolist() == OUTCOMES


def test_the_order_of_the_lines_does_not_matter(tmp_path):
    lines = choices(OUTCOMES, groups=["b", "a", "b", "a"])
    straight = read(tmp_path / "one.zst", lines)
    random.Random(1).shuffle(lines)
    shuffled = read(tmp_path / "other.zst", lines)
    assert shuffled.identity == straight.identity
    assert np.array_equal(shuffled.values, straight.values)
    assert straight.values.tolist() == [0.0, 1.0, 1.0, 1.0]
    assert straight.groups == (2, 2)


def test_other_items_have_another_identity(tmp_path, file):
    first = read_items(file, "acc")
    assert read_items(ItemsFile(file.path, 4, data="from elsewhere"), "acc").identity == first.identity
    texts = pack(tmp_path / "texts.zst", segments([1.0, 2.0]))
    one, other = (read_items(ItemsFile(texts, 2, data=text), "perplexity") for text in ("one text", "another"))
    assert one.identity != other.identity
    moved = [{**line, "document": "0" * 16} for line in choices(OUTCOMES)]
    assert read(tmp_path / "moved.zst", moved).identity != first.identity
    assert read(tmp_path / "wrong.zst", choices([0.0, 0.0, 0.0, 0.0])).identity == first.identity


def test_excluded_items_keep_their_place(tmp_path):
    found = read(tmp_path / "items.zst", choices([1.0, None, 0.0]), scored=2)
    assert found.scored == 2
    assert np.isnan(found.values[1])
    assert found.right is None


def test_segments_have_the_loss_of_a_token(tmp_path):
    found = read(tmp_path / "items.zst", segments([2.0, None, 3.0]), scored=2, metric="perplexity")
    assert found.values[[0, 2]].tolist() == [2.0, 3.0]
    assert found.exponential
    assert found.weights.tolist() == [1, 1, 1]


def test_pages_weigh_by_their_words_or_bytes(tmp_path):
    pages = [
        {
            "index": n,
            "document": str(n),
            "negative_log_likelihood": 60.0,
            "tokens": 9,
            "words": 20,
            "bytes": 30 * (n + 1),
        }
        for n in range(2)
    ]
    words = read(tmp_path / "words.zst", pages, scored=2, metric="word_perplexity")
    assert (words.values.tolist(), words.weights.tolist()) == ([3.0, 3.0], [20, 20])
    sizes = read(tmp_path / "bytes.zst", pages, scored=2, metric="byte_perplexity")
    assert (sizes.values.tolist(), sizes.weights.tolist()) == ([2.0, 1.0], [30, 60])


def test_a_mean_over_groups_is_read_from_the_items_own_metric(tmp_path):
    assert read(tmp_path / "items.zst", choices(OUTCOMES), metric="acc_over_groups").values.tolist() == OUTCOMES


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NoInterval, match=r"items\.jsonl\.zst\) are not in the store"):
        read_items(ItemsFile(tmp_path / "items.jsonl.zst", 4), "acc")


@pytest.mark.parametrize("kept", [1, 10, 0.5, 0.9])
@pytest.mark.parametrize("name", ["items.jsonl.zst", "items.jsonl.gz"])
def test_a_torn_file_is_refused(tmp_path, name, kept):
    lines = choices([float(flip) for flip in np.random.default_rng(0).integers(0, 2, 5000)])
    path = pack(tmp_path / name, lines)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(NoInterval, match=r"not readable|outcomes of \d+ items|holds no items"):
        read_items(ItemsFile(path, 5000), "acc")


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 not a text", b"\x28\xb5\x2f\xfd broken", gzip.compress(b"{}\n", mtime=0), b"{" * 100],
    ids=["empty", "zip", "broken zstd", "gzip", "braces"],
)
def test_bytes_of_any_other_kind_are_refused(tmp_path, content):
    path = tmp_path / "items.jsonl.zst"
    path.write_bytes(content)
    with pytest.raises(NoInterval, match=r"not readable|holds no items"):
        read_items(ItemsFile(path, 4), "acc")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"index": 0}, "'correct' is missing"),
        ([1, 2], "not readable"),
        (None, "not readable"),
        (7, "not readable"),
        ({**choices([1.0])[0], "correct": {"acc": 1.5}}, "acc is 1.5, not between 0 and 1"),
        ({**choices([1.0])[0], "correct": {"acc": "yes"}}, "not readable"),
        ({**choices([1.0])[0], "index": None}, "not readable"),
        ({"index": 0, "negative_log_likelihood": 3.0, "tokens": 0}, "not readable"),
        ({"index": 0, "negative_log_likelihood": 3.0, "tokens": 1e999}, "not readable"),
    ],
)
def test_lines_of_another_form_are_refused_with_their_number(tmp_path, line, reason):
    metric = "perplexity" if isinstance(line, dict) and "tokens" in line else "acc"
    with pytest.raises(NoInterval, match=f"line 1 of items.zst.*{reason}"):
        read(tmp_path / "items.zst", [line], scored=1, metric=metric)


@pytest.mark.parametrize(
    ("lines", "scored", "metric", "reason"),
    [
        (choices([1.0, 0.0]) * 2, 4, "acc", "holds an item twice"),
        (choices([1.0, 0.0]), 3, "acc", "has outcomes of 2 items, but 3 were scored"),
        (choices([1.0, 0.0]), 2, "acc_norm", "has no outcome of the metric acc_norm"),
        (segments([1.0, 0.0]), 2, "bits_per_byte", "has no outcome of the metric bits_per_byte"),
        (choices([1.0]) + segments([1.0]), 2, "acc", "holds items of different kinds"),
    ],
)
def test_outcomes_that_do_not_add_up_are_refused(tmp_path, lines, scored, metric, reason):
    with pytest.raises(NoInterval, match=reason):
        read(tmp_path / "items.zst", lines, scored=scored, metric=metric)


def test_an_unknown_ending_is_refused(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("index,correct\n")
    with pytest.raises(NoInterval, match=r"no form is known by the ending '\.csv'"):
        read_items(ItemsFile(path, 1), "acc")
