import gzip
import json
import os
import random
from pathlib import Path

import numpy
import pytest
import torch

from harness.calibration.sampling import draw_calibration
from harness.checkpoint import publish
from harness.contract import Calibration, CalibrationPolicy, DatasetDescriptor
from harness.errors import BadCheckpoint, BadRequest
from harness.fetch.rows import write_rows
from tests.support.tiny_checkpoints import publish_rows, tiny_text, tiny_tokenizer

LENGTHS = [5, 40, 12, 33, 90, 21, 20, 64]
LENGTH = 20


def asked(samples, length=LENGTH, seed=0, dataset="c4", policy=None, evaluated=()):
    return Calibration(
        dataset=dataset, samples=samples, sequence_length=length, seed=seed, policy=policy, evaluated=evaluated
    )


@pytest.fixture
def documents():
    return [tiny_text(words, seed) for seed, words in enumerate(LENGTHS)]


@pytest.fixture
def c4(tmp_path, documents):
    publish_rows(tmp_path / "c4", "c4", [{"text": text, "url": "u"} for text in documents])
    return tmp_path / "c4"


def letters(text, verbose=False):
    """A tokenizer that sees everything, blanks and line ends too: one token a character."""
    return {"input_ids": [ord(letter) for letter in text]}


def letters_of_words(text, verbose=False):
    """A tokenizer to which blank text is nothing."""
    return {"input_ids": [ord(letter) for letter in text.strip()]}


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
    assert drawn.policy is CalibrationPolicy.CROP
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
    assert drawn.policy is CalibrationPolicy.PACKED
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
    assert drawn.policy is CalibrationPolicy.PACKED
    assert f"hold {sum(LENGTHS)} tokens, so windows of them overlap" in drawn.notes[0]
    assert drawn.tokens.shape == (50, LENGTH)


def test_a_repeated_passage_is_packed_once(tmp_path):
    publish_rows(tmp_path / "boolq", "boolq", [{"passage": tiny_text(10, seed)} for seed in (1, 1, 1, 2)], "validation")
    drawn = draw_calibration(tmp_path / "boolq", tiny_tokenizer(), asked(1, dataset="boolq"))
    first, second = tokens_of(tiny_text(10, 1)), tokens_of(tiny_text(10, 2))
    assert drawn.tokens[0].tolist() in (first + second, second + first)


@pytest.mark.parametrize(("policy", "joiner"), [("window", " "), ("window-paragraphs", "\n\n")])
def test_windows_are_the_authors_draws_of_the_joined_rows(c4, documents, policy, joiner):
    stream = [ord(letter) for letter in joiner.join(documents)]
    random.seed(3)
    starts = [random.randint(0, len(stream) - LENGTH - 1) for _ in range(4)]
    drawn = draw_calibration(c4, letters, asked(4, seed=3, policy=policy))
    assert drawn.tokens.tolist() == [stream[start : start + LENGTH] for start in starts]
    assert drawn.policy.value == policy


@pytest.mark.parametrize("policy", ["crop", "window", "window-paragraphs"])
def test_as_the_authors_draws_go_no_crop_and_no_window_reaches_the_last_token(tmp_path, policy):
    text = "abcdefghijklmnopqrstu"
    assert len(text) == LENGTH + 1
    publish_rows(tmp_path / "set", "mine", [{"text": text}])
    drawn = draw_calibration(tmp_path / "set", letters, asked(40, dataset="mine", policy=policy))
    assert {tuple(row) for row in drawn.tokens.tolist()} == {tuple(map(ord, text[:-1]))}


def test_a_crop_that_is_asked_for_is_taken_from_the_few_long_documents(c4, documents):
    drawn = draw_calibration(c4, tiny_tokenizer(), asked(30, length=64, policy="crop"))
    (long,) = (tokens_of(text) for text, words in zip(documents, LENGTHS, strict=True) if words > 64)
    assert drawn.policy is CalibrationPolicy.CROP
    assert {tuple(row) for row in drawn.tokens.tolist()} <= windows_of(long, 64)


def test_a_crop_that_is_asked_for_is_not_replaced_where_no_document_is_long_enough(c4):
    with pytest.raises(BadRequest, match="no document of the calibration set is longer than 90 tokens"):
        draw_calibration(c4, tiny_tokenizer(), asked(1, length=90, policy="crop"))


def test_packing_that_is_asked_for_is_done_though_documents_could_be_cropped(c4, documents):
    order = list(documents)
    random.Random(0).shuffle(order)
    stream = [token for text in order for token in tokens_of(text)]
    drawn = draw_calibration(c4, tiny_tokenizer(), asked(3, policy="packed"))
    assert drawn.policy is CalibrationPolicy.PACKED
    assert drawn.tokens.flatten().tolist() == stream[: 3 * LENGTH]


def in_library_order(documents, seed):
    """The order that a shuffle with NumPy's default generator gives, as the data set library's."""
    return [documents[index] for index in numpy.random.default_rng(seed).permutation(len(documents))]


def test_joined_takes_documents_no_longer_than_a_sequence_and_cuts_all_their_tokens(c4, documents):
    short = [tokens_of(text) for text in in_library_order(documents, 42) if len(tokens_of(text)) <= 40][:3]
    stream = [token for tokens in short for token in tokens]
    drawn = draw_calibration(c4, tiny_tokenizer(), asked(3, length=40, seed=42, policy="joined"))
    whole = len(stream) // 40
    assert drawn.tokens.tolist() == [stream[start * 40 : start * 40 + 40] for start in range(whole)]
    assert 1 <= whole < 3
    assert f"{whole} sequences of 40 tokens" in drawn.notes[0]
    assert f"3 shuffled documents no longer than a sequence hold {len(stream)} tokens" in drawn.notes[0]


def test_joined_makes_do_with_the_documents_that_there_are(c4):
    drawn = draw_calibration(c4, tiny_tokenizer(), asked(100, length=30, policy="joined"))
    fitting = [words for words in LENGTHS if words <= 30]
    assert len(drawn.sequences) == sum(fitting) // 30
    assert f"{len(fitting)} shuffled documents" in drawn.notes[0]


def test_joined_refuses_where_the_short_documents_do_not_fill_one_sequence(tmp_path):
    publish_rows(tmp_path / "pile", "pile", [{"text": tiny_text(words, 0)} for words in (7, 8, 90)], "validation")
    with pytest.raises(BadRequest, match="holds 15 tokens that the policy can use, too few for one sequence of 20"):
        draw_calibration(tmp_path / "pile", tiny_tokenizer(), asked(4, policy="joined", dataset="pile"))


def test_documents_are_shuffled_and_cut_off_but_neither_joined_nor_padded(c4, documents):
    drawn = draw_calibration(c4, tiny_tokenizer(), asked(6, seed=42, policy="documents"))
    expected = [tokens_of(text)[:LENGTH] for text in in_library_order(documents, 42)][:6]
    assert [sequence.tolist() for sequence in drawn.sequences] == expected
    assert {sequence.dtype for sequence in drawn.sequences} == {torch.int64}
    assert f"6 sequences of {min(map(len, expected))} to {LENGTH} tokens" in drawn.notes[0]
    with pytest.raises(BadRequest, match="different lengths"):
        _ = drawn.tokens


def test_documents_without_text_do_not_count(tmp_path):
    rows = [{"text": text} for text in ["", " \n", tiny_text(9, 0), ""]]
    publish_rows(tmp_path / "set", "mine", rows)
    drawn = draw_calibration(tmp_path / "set", tiny_tokenizer(), asked(4, policy="documents", dataset="mine"))
    assert [len(sequence) for sequence in drawn.sequences] == [9]
    publish_rows(tmp_path / "empty", "mine", rows[:2])
    for policy in ("documents", "joined", "packed", "window"):
        with pytest.raises(BadRequest, match="too few for one sequence"):
            draw_calibration(tmp_path / "empty", letters_of_words, asked(1, policy=policy, dataset="mine"))


@pytest.mark.parametrize("policy", list(CalibrationPolicy))
def test_every_policy_gives_what_its_seed_says(c4, policy):
    first, again, other = (
        [row.tolist() for row in draw_calibration(c4, tiny_tokenizer(), asked(4, seed=seed, policy=policy)).sequences]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_instructions_are_rendered_in_sections_and_an_empty_input_has_none(tmp_path):
    rows = [
        {"instruction": "Add", "input": "1 2", "output": "3"},
        {"instruction": "Greet", "input": "", "output": "Hello"},
    ]
    publish_rows(tmp_path / "alpaca", "alpaca", rows)
    drawn = draw_calibration(tmp_path / "alpaca", letters, asked(2, length=200, policy="documents", dataset="alpaca"))
    texts = {"".join(map(chr, sequence.tolist())) for sequence in drawn.sequences}
    assert texts == {
        "### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n3",
        "### Instruction:\nGreet\n\n### Response:\nHello",
    }


def test_what_the_local_file_holds_of_a_split_reaches_the_notes(tmp_path):
    staging = tmp_path / "staging"
    staging.mkdir()
    write_rows([{"text": tiny_text(60, 0)}], staging / "train.jsonl.gz")
    note = "train: the local file holds a part"
    publish(
        staging,
        tmp_path / "c4",
        lambda files: DatasetDescriptor(files=files, name="c4", origin="local", rows={"train": 1}, notes=(note,)),
    )
    assert f"calibration: c4 {note}" in draw_calibration(tmp_path / "c4", tiny_tokenizer(), asked(1)).notes


def test_too_little_text_for_one_sequence_is_an_error(c4):
    with pytest.raises(BadRequest, match=f"holds {sum(LENGTHS)} tokens"):
        draw_calibration(c4, tiny_tokenizer(), asked(1, length=sum(LENGTHS) + 1))


def test_wikitext_is_joined_into_windows_and_flagged_as_an_evaluation_set(tmp_path, documents):
    publish_rows(tmp_path / "wikitext2", "wikitext2", [{"text": text} for text in ["", *documents]])
    drawn = draw_calibration(
        tmp_path / "wikitext2", tiny_tokenizer(), asked(9, dataset="wikitext2", evaluated=("wikitext2",))
    )
    assert drawn.policy is CalibrationPolicy.WINDOW
    assert {tuple(row) for row in drawn.tokens.tolist()} <= windows_of(tokens_of(" ".join(documents)))
    assert any("also an evaluation set" in note for note in drawn.notes)


def test_a_set_that_stands_in_for_another_is_named(tmp_path):
    publish_rows(tmp_path / "boolq", "boolq", [{"passage": tiny_text(60, 0)}], "validation")
    drawn = draw_calibration(tmp_path / "boolq", tiny_tokenizer(), asked(1, evaluated=("c4",)))
    assert any("c4 was asked for, boolq stands in" in note for note in drawn.notes)
    assert not any("evaluation set" in note for note in drawn.notes)


def test_a_set_that_is_not_known_gives_its_usual_text_field(tmp_path):
    publish_rows(tmp_path / "mine", "mine", [{"id": "1", "content": tiny_text(60, 3)}])
    drawn = draw_calibration(tmp_path / "mine", tiny_tokenizer(), asked(1, dataset="mine"))
    assert tuple(drawn.tokens[0].tolist()) in windows_of(tokens_of(tiny_text(60, 3)))


@pytest.mark.parametrize(
    ("rows", "split", "message"),
    [
        ([{"question": "w1"}], "train", "no text field"),
        ([{"text": 3}], "train", "no text field"),
        ([{"text": "w1"}, {"body": "w1"}], "train", "no field 'text'"),
        ([{"text": "w1"}, {"text": 3}], "train", "is not text"),
        ([{"text": "w1"}], "test", "no train or validation split"),
    ],
)
def test_a_set_without_usable_text_is_refused(tmp_path, rows, split, message):
    publish_rows(tmp_path / "set", "c4", rows, split)
    with pytest.raises(BadRequest, match=message):
        draw_calibration(tmp_path / "set", tiny_tokenizer(), asked(1))


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(BadCheckpoint):
        draw_calibration(tmp_path, tiny_tokenizer(), asked(1))


@pytest.mark.parametrize(("length", "policy"), [(256, CalibrationPolicy.CROP), (2048, CalibrationPolicy.PACKED)])
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
