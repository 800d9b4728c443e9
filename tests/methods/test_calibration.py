import gzip
import json
import os
import random
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import publish_rows, tiny_text, tiny_tokenizer

from harness.calibration import Policy, draw_calibration
from harness.contract import Calibration
from harness.errors import BadCheckpoint, BadRequest

LENGTHS = [5, 40, 12, 33, 90, 21, 20, 64]
LENGTH = 20


def asked(samples, length=LENGTH, seed=0, dataset="c4"):
    return Calibration(dataset=dataset, samples=samples, sequence_length=length, seed=seed)


@pytest.fixture
def documents():
    return [tiny_text(words, seed) for seed, words in enumerate(LENGTHS)]


@pytest.fixture
def c4(tmp_path, documents):
    publish_rows(tmp_path / "c4", "c4", [{"text": text, "url": "u"} for text in documents])
    return tmp_path / "c4"


def tokens_of(text):
    return tiny_tokenizer()(text)["input_ids"]


def windows_of(stream, length=LENGTH):
    return {tuple(stream[start : start + length]) for start in range(len(stream) - length + 1)}


def test_long_documents_are_cropped_by_the_authors_draws(c4, documents):
    random.seed(7)
    expected = []
    for _ in range(5):
        while True:
            tokens = tokens_of(documents[random.randint(0, len(documents) - 1)])
            if len(tokens) > LENGTH:
                break
        start = random.randint(0, len(tokens) - LENGTH - 1)
        expected.append(tokens[start : start + LENGTH])
    drawn = draw_calibration(c4, tiny_tokenizer(), asked(5, seed=7))
    assert drawn.policy is Policy.CROP
    assert drawn.tokens.tolist() == expected


def test_the_shape_and_type_are_what_a_model_takes(c4):
    tokens = draw_calibration(c4, tiny_tokenizer(), asked(3)).tokens
    assert (tokens.shape, tokens.dtype) == ((3, LENGTH), torch.int64)


def test_the_seed_alone_decides_what_is_drawn(c4):
    first, again, other = (draw_calibration(c4, tiny_tokenizer(), asked(5, seed=seed)).tokens for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_too_few_long_documents_are_packed_without_overlap_and_the_reason_is_given(c4, documents):
    drawn = draw_calibration(c4, tiny_tokenizer(), asked(7))
    assert drawn.policy is Policy.PACKED
    assert "only 5 of 8 documents" in drawn.notes[0]
    packed = drawn.tokens.flatten().tolist()
    whole = [tokens_of(text) for text in documents]
    while packed:
        part = next(part for part in whole if packed[: len(part)] == part[: len(packed)])
        whole.remove(part)
        packed = packed[len(part) :]
    assert len(whole) < len(documents)


def test_windows_overlap_only_where_there_is_too_little_text_and_the_note_says_so(c4):
    drawn = draw_calibration(c4, tiny_tokenizer(), asked(50))
    assert drawn.policy is Policy.PACKED
    assert f"hold {sum(LENGTHS)} tokens, so windows of them overlap" in drawn.notes[0]
    assert drawn.tokens.shape == (50, LENGTH)


def test_a_repeated_passage_is_packed_once(tmp_path):
    publish_rows(tmp_path / "boolq", "boolq", [{"passage": tiny_text(10, seed)} for seed in (1, 1, 1, 2)], "validation")
    drawn = draw_calibration(tmp_path / "boolq", tiny_tokenizer(), asked(1, dataset="boolq"))
    first, second = tokens_of(tiny_text(10, 1)), tokens_of(tiny_text(10, 2))
    assert drawn.tokens[0].tolist() in (first + second, second + first)


def test_too_little_text_for_one_sequence_is_an_error(c4):
    with pytest.raises(BadRequest, match=f"holds {sum(LENGTHS)} tokens"):
        draw_calibration(c4, tiny_tokenizer(), asked(1, length=sum(LENGTHS) + 1))


def test_wikitext_is_joined_into_windows_and_flagged_as_an_evaluation_set(tmp_path, documents):
    publish_rows(tmp_path / "wikitext2", "wikitext2", [{"text": text} for text in ["", *documents]])
    drawn = draw_calibration(tmp_path / "wikitext2", tiny_tokenizer(), asked(9, dataset="wikitext2"))
    assert drawn.policy is Policy.WINDOW
    assert {tuple(row) for row in drawn.tokens.tolist()} <= windows_of(tokens_of(" ".join(documents)))
    assert any("also an evaluation set" in note for note in drawn.notes)


def test_a_set_that_stands_in_for_another_is_named(tmp_path):
    publish_rows(tmp_path / "boolq", "boolq", [{"passage": tiny_text(60, 0)}], "validation")
    drawn = draw_calibration(tmp_path / "boolq", tiny_tokenizer(), asked(1))
    assert any("c4 was asked for, boolq stands in" in note for note in drawn.notes)
    assert not any("evaluation set" in note for note in drawn.notes)


def test_a_set_that_is_not_known_gives_its_usual_text_field(tmp_path):
    publish_rows(tmp_path / "mine", "mine", [{"id": "1", "content": tiny_text(60, 3)}])
    drawn = draw_calibration(tmp_path / "mine", tiny_tokenizer(), asked(1, dataset="mine"))
    assert tuple(drawn.tokens[0].tolist()) in windows_of(tokens_of(tiny_text(60, 3)))


@pytest.mark.parametrize(
    ("name", "row", "split", "message"),
    [
        ("mine", {"question": "w1"}, "train", "no text field"),
        ("c4", {"body": "w1"}, "train", "no field 'text'"),
        ("c4", {"text": 3}, "train", "is not text"),
        ("c4", {"text": "w1"}, "test", "no train or validation split"),
    ],
)
def test_a_set_without_usable_text_is_refused(tmp_path, name, row, split, message):
    publish_rows(tmp_path / "set", name, [row], split)
    with pytest.raises(BadRequest, match=message):
        draw_calibration(tmp_path / "set", tiny_tokenizer(), asked(1))


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(BadCheckpoint):
        draw_calibration(tmp_path, tiny_tokenizer(), asked(1))


@pytest.mark.parametrize(("length", "policy"), [(256, Policy.CROP), (2048, Policy.PACKED)])
def test_real_c4_is_cropped_where_its_documents_are_long_enough(tmp_path, length, policy):
    source = Path(os.environ.get("LLMCBENCH_DATA", "")) / "c4" / "train_first1000.jsonl.gz"
    if not source.is_file():
        pytest.skip("LLMCBENCH_DATA does not hold c4/train_first1000.jsonl.gz")
    with gzip.open(source, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    publish_rows(tmp_path / "c4", "c4", rows)
    drawn = draw_calibration(tmp_path / "c4", tiny_tokenizer(), asked(64, length=length))
    assert drawn.policy is policy
    assert drawn.tokens.shape == (64, length)
