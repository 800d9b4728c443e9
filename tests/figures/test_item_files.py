"""Reading what an evaluation kept of each item: a file that is not as it should be gives nothing at all."""

import gzip
import json
import math
import os
import random

import numpy as np
import pytest
import zstandard

from orchestrator.evidence.items import NoInterval, items_of
from orchestrator.figures import items_file
from orchestrator.figures.checking import of_other_answers
from orchestrator.figures.items_file import Contradiction, OutcomesFile, read_divergences, read_items
from orchestrator.figures.outcomes import NOTHING, read_outcomes
from tests.support.measured_runs import choices, pack, segments

RIGHT = [1.0, 0.0, 1.0, 1.0]


def read(path, lines, metric="acc"):
    return items_of(read_outcomes(OutcomesFile(pack(path, lines))), metric)


@pytest.mark.parametrize("name", ["items.jsonl.zst", "items.jsonl.gz"])
def test_both_forms_are_read(tmp_path, name):
    assert read(tmp_path / name, choices(RIGHT)).values.tolist() == RIGHT


def test_several_frames_are_one_file(tmp_path):
    path = tmp_path / "items.jsonl.zst"
    lines = [json.dumps(line).encode() + b"\n" for line in choices(RIGHT)]
    path.write_bytes(b"".join(zstandard.compress(line) for line in lines))
    assert items_of(read_outcomes(OutcomesFile(path)), "acc").values.tolist() == RIGHT


def test_the_order_of_the_lines_does_not_matter(tmp_path):
    lines = choices(RIGHT, groups=["b", "a", "b", "a"])
    straight = read(tmp_path / "one.zst", lines)
    random.Random(1).shuffle(lines)
    shuffled = read(tmp_path / "other.zst", lines)
    assert shuffled.identity == straight.identity
    assert np.array_equal(shuffled.values, straight.values)
    assert straight.values.tolist() == [0.0, 1.0, 1.0, 1.0]
    assert straight.groups == (2, 2)


def test_other_items_have_another_identity(tmp_path):
    first = read(tmp_path / "items.zst", choices(RIGHT))
    elsewhere = read_outcomes(OutcomesFile(tmp_path / "items.zst", data="from elsewhere"))
    assert elsewhere.identity == first.identity
    texts = pack(tmp_path / "texts.zst", segments([1.0, 2.0]))
    one, other = (read_outcomes(OutcomesFile(texts, data=text)) for text in ("one text", "another"))
    assert one.identity != other.identity
    moved = [{**line, "document": "0" * 16} for line in choices(RIGHT)]
    assert read(tmp_path / "moved.zst", moved).identity != first.identity
    assert read(tmp_path / "wrong.zst", choices([0.0, 0.0, 0.0, 0.0])).identity == first.identity


def test_excluded_items_keep_their_place(tmp_path):
    found = read(tmp_path / "items.zst", choices([1.0, None, 0.0]))
    assert found.scored == 2
    assert np.isnan(found.values[1])
    assert found.right is not None
    assert found.right.tolist() == [True, False, False]


def test_of_each_question_is_known_what_was_picked_and_of_all_what_guessing_gets_right(tmp_path):
    lines = choices([1.0, 0.0, None, 1.0], groups=["b", "a", "a", "b"])
    lines[1] |= {"log_likelihoods": [-3.0, -1.0, -2.0, -2.0], "gold": 2, "picked": 1, "picked_norm": 3}
    for line in lines:
        if line["correct"]:
            line["correct"] = {"acc": line["correct"]["acc"], "acc_norm": float(line["picked_norm"] == line["gold"])}
    found = read_outcomes(OutcomesFile(pack(tmp_path / "items.zst", lines)))
    assert found.numbers.tolist() == [1, 2, 0, 3]
    assert {name: picked.tolist() for name, picked in found.picked.items()} == {
        "acc": [1, NOTHING, 0, 0],
        "acc_norm": [3, NOTHING, 0, 0],
    }
    assert found.guessing == pytest.approx((1 / 4 + 3 / 2) / 4)
    of_text = read_outcomes(OutcomesFile(pack(tmp_path / "text.zst", segments([2.0]))))
    assert (of_text.picked, of_text.guessing) == ({}, None)


def test_segments_have_the_loss_of_a_token(tmp_path):
    found = read(tmp_path / "items.zst", segments([2.0, None, 3.0]), metric="perplexity")
    assert found.values[[0, 2]].tolist() == [2.0, 3.0]
    assert found.exponential
    assert found.weights.tolist() == [1, 1, 1]


def pages(*sizes):
    return [
        {
            "index": n,
            "document": str(n),
            "negative_log_likelihood": 60.0,
            "tokens": 9,
            "words": 20,
            "bytes": size,
        }
        for n, size in enumerate(sizes)
    ]


def test_pages_weigh_by_their_words_or_bytes(tmp_path):
    words = read(tmp_path / "words.zst", pages(30, 60), metric="word_perplexity")
    assert (words.values.tolist(), words.weights.tolist()) == ([3.0, 3.0], [20, 20])
    sizes = read(tmp_path / "bytes.zst", pages(30, 60), metric="byte_perplexity")
    assert (sizes.values.tolist(), sizes.weights.tolist()) == ([2.0, 1.0], [30, 60])


def test_a_mean_over_groups_is_read_from_the_items_own_metric(tmp_path):
    assert read(tmp_path / "items.zst", choices(RIGHT), metric="acc_over_groups").values.tolist() == RIGHT


@pytest.mark.parametrize(
    ("lines", "metrics"),
    [
        (
            choices([1.0, 0.0, 0.0, None, 1.0], groups=["a", "a", "a", "b", "b"]),
            {"acc": 0.5, "acc_over_groups": 2 / 3, "acc/a": 1 / 3, "acc/b": 1.0, "acc_stderr": 1 / math.sqrt(12)},
        ),
        (
            segments([1.0, 2.0, None]),
            {
                "nats_per_token": 1.5,
                "perplexity": math.exp(1.5),
                "nats_per_token_stderr": 0.5,
                "perplexity_stderr": math.exp(1.5) / 2,
            },
        ),
        (
            pages(30, 90),
            {
                "word_perplexity": math.exp(3),
                "byte_perplexity": math.e,
                "bits_per_byte": 1 / math.log(2),
                "word_perplexity_stderr": 0.0,
                "byte_perplexity_stderr": math.e * 60 / 120,
                "bits_per_byte_stderr": 0.5 / math.log(2),
            },
        ),
    ],
    ids=["choices", "segments", "pages"],
)
def test_every_figure_follows_from_the_items(tmp_path, lines, metrics):
    assert read_outcomes(OutcomesFile(pack(tmp_path / "items.zst", lines))).metrics == pytest.approx(metrics)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(Contradiction, match=r"items\.jsonl\.zst\) are not there"):
        read_outcomes(OutcomesFile(tmp_path / "items.jsonl.zst"))


def test_a_file_that_is_not_the_one_that_was_written_is_refused(tmp_path):
    path = pack(tmp_path / "items.zst", choices(RIGHT))
    with pytest.raises(Contradiction, match="is not what was written"):
        read_outcomes(OutcomesFile(path, sha256="0" * 64))


@pytest.mark.parametrize("kept", [1, 10, 0.5, 0.9])
@pytest.mark.parametrize("name", ["items.jsonl.zst", "items.jsonl.gz"])
def test_a_torn_file_is_refused_or_short(tmp_path, name, kept):
    lines = choices([float(flip) for flip in np.random.default_rng(0).integers(0, 2, 5000)])
    path = pack(tmp_path / name, lines)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    try:
        assert read_outcomes(OutcomesFile(path)).scored < 5000
    except Contradiction as refused:
        assert "not readable" in str(refused) or "holds no items" in str(refused)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 not a text", b"\x28\xb5\x2f\xfd broken", gzip.compress(b"{}\n", mtime=0), b"{" * 100],
    ids=["empty", "zip", "broken zstd", "gzip", "braces"],
)
def test_bytes_of_any_other_kind_are_refused(tmp_path, content):
    path = tmp_path / "items.jsonl.zst"
    path.write_bytes(content)
    with pytest.raises(Contradiction, match=r"not readable|holds no items"):
        read_outcomes(OutcomesFile(path))


def test_nothing_but_a_regular_file_is_opened(tmp_path):
    pipe, link = tmp_path / "pipe.zst", tmp_path / "link.zst"
    os.mkfifo(pipe)
    link.symlink_to(pack(tmp_path / "items.zst", choices(RIGHT)))
    for path in (pipe, link, tmp_path):
        with pytest.raises(Contradiction, match="is not readable"):
            read_outcomes(OutcomesFile(path))


@pytest.mark.parametrize("name", ["items.jsonl.zst", "items.jsonl.gz"])
def test_a_file_that_unpacks_to_more_than_outcomes_are_is_refused(tmp_path, name, monkeypatch):
    monkeypatch.setattr(items_file, "MOST_BYTES", 1000)
    with pytest.raises(Contradiction, match="more than 1000 bytes"):
        read_outcomes(OutcomesFile(pack(tmp_path / name, choices([1.0] * 20))))


CHOICE = choices([1.0])[0]
SEGMENT = segments([1.0])[0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"index": 0}, "document: Field required"),
        ([1, 2], "not readable|an object"),
        (None, "not readable|an object"),
        (7, "not readable|an object"),
        ({**CHOICE, "correct": {"acc": "yes"}}, "correct.acc"),
        ({**CHOICE, "index": None}, "index"),
        ({**CHOICE, "log_likelihoods": [math.nan, -1.0]}, "log_likelihoods.0"),
        ({**CHOICE, "log_likelihoods": [-1.0, -math.inf]}, "log_likelihoods.1"),
        ({**SEGMENT, "tokens": 0}, "tokens"),
        ({**SEGMENT, "tokens": 1e999}, "tokens"),
        ({**SEGMENT, "negative_log_likelihood": math.nan}, "negative_log_likelihood"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_lines_of_another_form_are_refused_with_their_number(tmp_path, line, reason, place):
    good = SEGMENT if isinstance(line, dict) and "tokens" in line else CHOICE
    lines = [{**good, "index": number} for number in range(3)]
    lines[place] = line
    with pytest.raises(Contradiction, match=f"line {place + 1} of items.zst.*({reason})|items of different kinds"):
        read_outcomes(OutcomesFile(pack(tmp_path / "items.zst", lines)))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (choices([1.0, 0.0]) * 2, "holds item 0 twice"),
        (choices([1.0, 0.0, 1.0])[::2], "lacks item 1"),
        (choices([1.0, 0.0])[1:], "lacks item 0"),
        (choices([1.0]) + segments([1.0]), "holds items of different kinds"),
        ([*choices([1.0]), choices([1.0, 1.0], "acc_norm")[1]], "has items of different metrics"),
    ],
)
def test_items_that_do_not_make_up_a_whole_are_refused(tmp_path, lines, reason):
    with pytest.raises(Contradiction, match=reason):
        read_items(OutcomesFile(pack(tmp_path / "items.zst", lines)))


DIVERGENCE = {"index": 0, "tokens": 2, "divergences": [0.5, 0.0]}


def test_divergences_are_read_by_their_numbers(tmp_path):
    lines = [{**DIVERGENCE, "index": number} for number in (1, 0)]
    items = read_divergences(OutcomesFile(pack(tmp_path / "items.zst", lines)))
    assert [(item.index, item.divergences) for item in items] == [(0, (0.5, 0.0)), (1, (0.5, 0.0))]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "items.zst holds no items"),
        ([DIVERGENCE, DIVERGENCE], "holds item 0 twice"),
        ([{**DIVERGENCE, "index": 1}], "lacks item 0"),
        ([DIVERGENCE, {**DIVERGENCE, "index": 1, "tokens": 0}], "line 2 of items.zst: tokens: "),
        ([DIVERGENCE, {**DIVERGENCE, "index": 1, "tokens": 3}], "line 2 of items.zst: 2 divergences of 3 tokens"),
        (segments([1.0]), "line 1 of items.zst: divergences: Field required"),
    ],
)
def test_divergences_that_do_not_make_up_a_whole_are_refused_as_outcomes_are(tmp_path, lines, reason):
    with pytest.raises(Contradiction, match=reason):
        read_divergences(OutcomesFile(pack(tmp_path / "items.zst", lines)))


@pytest.mark.parametrize(("lines", "metric"), [(choices(RIGHT), "acc_norm"), (pages(30), "bits_per_byte")])
def test_a_metric_that_is_not_made_of_these_items_has_nothing_to_resample(tmp_path, lines, metric):
    with pytest.raises(NoInterval, match=f"do not give the metric {metric} item by item"):
        read(tmp_path / "items.zst", lines, metric=metric)


def test_an_unknown_ending_is_refused(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("index,correct\n")
    with pytest.raises(Contradiction, match=r"no form is known by the ending '\.csv'"):
        read_outcomes(OutcomesFile(path))


def evaluation(tmp_path, name, lines, task="task"):
    return task, read_outcomes(OutcomesFile(pack(tmp_path / f"{name}.zst", lines)))


def test_of_right_answers_that_differ_those_of_the_most_are_believed(tmp_path):
    others = [
        line | {"gold": 1 - line["gold"], "correct": {"acc": 1 - line["correct"]["acc"]}} for line in choices(RIGHT)
    ]
    found = {
        "dense": evaluation(tmp_path, "a", choices(RIGHT)),
        "wanda": evaluation(tmp_path, "b", choices(RIGHT)),
        "forged": evaluation(tmp_path, "c", others),
        "other rows": evaluation(tmp_path, "d", choices(RIGHT[::-1], rows="other")),
        "other task": evaluation(tmp_path, "e", choices(RIGHT[::-1]), task="other"),
    }
    assert dict(of_other_answers(found)) == {
        "forged": "the right answers of its items are not those of the same items in dense"
    }
    del found["wanda"]
    assert set(dict(of_other_answers(found))) == {"dense", "forged"}


def test_lengths_of_choices_are_compared_where_they_are_told(tmp_path):
    told, longer = ([line | {"lengths": [5, size]} for line in choices(RIGHT)] for size in (5, 6))
    found = {
        "former": evaluation(tmp_path, "a", choices(RIGHT)),
        "one": evaluation(tmp_path, "b", told),
        "two": evaluation(tmp_path, "c", told),
    }
    assert dict(of_other_answers(found)) == {}
    found["forged"] = evaluation(tmp_path, "d", longer)
    assert list(dict(of_other_answers(found))) == ["forged"]


def test_pages_of_other_words_are_not_those_of_the_same_text(tmp_path):
    more = [line | {"words": 21} for line in pages(30, 60)]
    found = {
        str(n): evaluation(tmp_path, str(n), lines) for n, lines in enumerate([pages(30, 60), pages(30, 60), more])
    }
    assert list(dict(of_other_answers(found))) == ["2"]
