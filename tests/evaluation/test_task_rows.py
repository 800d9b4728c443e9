"""Rows that become items and rows that do not: limits, groups, labels, splits, texts too long, broken likelihoods."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import Reason
from harness.contract.tasks import PerplexityTask, WordPerplexityTask, load_tasks
from harness.errors import BadCheckpoint, BadRequest, MissingData, Unsupported
from harness.evaluation.definitions import ModelFacts, Prepared, prepare
from harness.evaluation.definitions.attacked import before_attack
from harness.evaluation.definitions.rows import share_limit
from harness.evaluation.prepared import Answer
from harness.evaluation.tasks import find_task
from tests.support.small_checkpoints import byte_tokenizer
from tests.support.task_rows import made_rows

MNLI = made_rows("mnli", "validation_matched")


def prepared_task(
    name: str, *, limit: int | None = None, context_length: int = 4096, **rows: list[dict[str, Any]]
) -> Prepared[Any]:
    task = find_task(name)
    content = {split: made_rows(task.dataset, split) for split in task.splits} | rows
    tokenizer = byte_tokenizer()
    return prepare(task, content, ModelFacts(tokenizer, context_length, len(tokenizer)), limit=limit)


def judged(prepared: Prepared[Any], likelihood: float = -1.0) -> list[Any]:
    """Outcomes in which a choice is the less likely the later it comes."""
    return [
        prepared.judge(index, [Answer(likelihood - place, False) for place in range(len(prepared.requests(index)))])
        for index in range(len(prepared))
    ]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 60))
def test_a_limit_is_dealt_out_to_the_groups_evenly(counts: list[int], limit: int) -> None:
    shares = share_limit(counts, limit)
    assert sum(shares) == min(limit, sum(counts))
    assert all(share <= count for share, count in zip(shares, counts, strict=True))
    unfinished = [share for share, count in zip(shares, counts, strict=True) if share < count]
    assert not unfinished or max(shares) - min(unfinished) <= 1


def test_without_a_limit_every_row_is_an_item() -> None:
    assert share_limit([3, 0, 5], None) == [3, 0, 5]
    prepared = prepared_task("mmlu")
    assert len(prepared) == prepared.available == 10


def test_a_limit_takes_the_first_rows_of_every_subject() -> None:
    prepared, whole = prepared_task("mmlu", limit=3), prepared_task("mmlu")
    assert (len(prepared), prepared.available) == (3, 10)
    some, every = judged(prepared), judged(whole)
    assert [item.group for item in some] == ["anatomy", "anatomy", "high_school_physics"]
    assert [item.document for item in some] == [every[place].document for place in (0, 1, 5)]
    assert [item.index for item in some] == [0, 1, 2]


def test_groups_have_their_own_means_beside_that_over_all_items() -> None:
    prepared = prepared_task("mmlu", limit=3)
    metrics = prepared.summarise(judged(prepared)).metrics
    assert metrics["acc/anatomy"] == 0.5
    assert metrics["acc/high_school_physics"] == 1.0
    assert metrics["acc"] == pytest.approx(2 / 3)
    assert metrics["acc_over_groups"] == 0.75
    assert not any("/" in name for name in prepared_task("mnli").summarise(judged(prepared_task("mnli"))).metrics)


def test_examples_are_those_of_the_questions_own_subject() -> None:
    tokenizer = byte_tokenizer()
    prepared = prepared_task("mmlu-5shot")
    first, last = (tokenizer.decode(prepared.requests(index)[0].context) for index in (0, len(prepared) - 1))
    assert "about anatomy" in first
    assert "about high school physics" in last
    assert all(text.count("In dev,") == 5 and text.count("In test,") == 1 for text in (first, last))
    assert "In dev," not in tokenizer.decode(prepared_task("mmlu").requests(0)[0].context)
    assert (prepared.details.shots, prepared_task("mmlu").details.shots) == (5, 0)


def test_too_few_examples_are_missing_data() -> None:
    with pytest.raises(MissingData, match="mmlu/dev has 4 of the 5 examples for anatomy"):
        prepared_task("mmlu-5shot", dev=made_rows("mmlu", "dev")[1:])


@pytest.mark.parametrize("name", ["mmlu-5shot", "advglue", "truthfulqa", "mnli-letter", "wikitext2", "wikitext2-words"])
def test_a_missing_split_is_named_with_what_to_do(name: str) -> None:
    task = find_task(name)
    split = task.splits[-1]
    with pytest.raises(MissingData, match=f"{task.dataset} has no rows of the split '{split}'") as failure:
        prepared_task(name, **{split: []})
    assert split in failure.value.hint


def test_a_split_without_any_label_is_missing_data() -> None:
    unlabelled = [{**row, "label": -1} for row in MNLI]
    for name, split in (("mnli-mismatched", "validation_mismatched"), ("mnli-letter", "validation_matched")):
        with pytest.raises(MissingData, match=f"none of the 3 rows asked for of mnli/{split} has a label") as failure:
            prepared_task(name, **{split: unlabelled})
        assert "gold labels" in failure.value.hint


@pytest.mark.parametrize("name", ["mnli", "mnli-letter"])
def test_rows_without_a_label_are_left_out_and_counted(name: str) -> None:
    prepared = prepared_task(name, validation_matched=[{**MNLI[0], "label": -1}, *MNLI])
    assert (len(prepared), prepared.available) == (3, 4)
    summary = prepared.summarise(judged(prepared))
    assert (summary.scored, summary.excluded) == (3, {"unlabelled": 1})


def test_a_label_beyond_the_choices_is_none() -> None:
    prepared = prepared_task("qnli", validation=[{**row, "label": row["label"] + 1} for row in made_rows("qnli", "")])
    assert prepared.summarise(judged(prepared)).excluded == {"unlabelled": 1}


def test_rows_with_other_fields_than_the_definition_needs_are_refused() -> None:
    with pytest.raises(BadRequest, match="of arc_easy/test do not fit the task's definition") as refusal:
        prepared_task("arc_easy", test=[{"text": "no question here"}])
    assert "field names" in refusal.value.hint
    with pytest.raises(BadRequest, match="has no field 'subject'"):
        prepared_task("mmlu", test=[{"question": "?", "choices": [], "answer": 0}])


def test_a_row_that_does_not_fit_is_named_by_its_number() -> None:
    rows = made_rows("arc_easy", "test")
    with pytest.raises(BadRequest, match="row 1 of those of arc_easy/test"):
        prepared_task("arc_easy", test=[rows[0], {**rows[1], "answerKey": "Z"}])


def test_a_choice_longer_than_the_context_is_left_out_and_counted() -> None:
    rows = made_rows("arc_easy", "test")
    rows[1]["choices"]["text"][0] = "y" * 200
    prepared = prepared_task("arc_easy", test=rows, context_length=128)
    summary = prepared.summarise(judged(prepared))
    assert (len(prepared), summary.excluded) == (2, {"choice_longer_than_context": 1})


def test_a_task_of_which_nothing_fits_the_context_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="no item of piqa/validation can be scored") as refusal:
        prepared_task("piqa", context_length=4)
    assert refusal.value.reason is Reason.SHAPE


def test_items_that_lose_the_beginning_of_a_context_are_scored_and_counted() -> None:
    rows = made_rows("arc_easy", "test")
    rows[0]["question"] = "x" * 300
    prepared = prepared_task("arc_easy", test=rows, context_length=128)
    assert (len(prepared), prepared.truncated) == (3, (0,))
    assert prepared_task("arc_easy").truncated == ()


def test_a_context_of_exactly_the_models_length_loses_nothing() -> None:
    request = prepared_task("qnli", validation=made_rows("qnli", "")[:1]).requests(0)[0]
    length = len(request.context) + len(request.continuation)
    row = made_rows("qnli", "")[:1]
    assert prepared_task("qnli", validation=row, context_length=length - 1).truncated == ()
    assert prepared_task("qnli", validation=row, context_length=length - 2).truncated == (0,)


@pytest.mark.parametrize("name", ["mnli", "truthfulqa", "truthfulqa-paper", "mmlu-letter", "advglue"])
def test_an_item_with_a_broken_likelihood_is_excluded_and_counted(name: str) -> None:
    prepared = prepared_task(name)
    items = judged(prepared)
    items[0] = prepared.judge(0, [Answer(math.nan, False)] * len(prepared.requests(0)))
    assert items[0].picked is None
    assert items[0].correct == {}
    summary = prepared.summarise(items)
    assert (summary.scored, summary.excluded) == (len(items) - 1, {"log_likelihood_not_finite": 1})
    with pytest.raises(BadCheckpoint, match="no item a finite likelihood"):
        prepared.summarise(items[:1])


def test_outcomes_quote_no_text_and_stand_for_their_rows() -> None:
    items = judged(prepared_task("truthfulqa")) + judged(prepared_task("truthfulqa-paper"))
    kept = "".join(item.model_dump_json() for item in items)
    assert not any(word in kept for word in ("moon", "cheese", "pigs", "Mondays"))
    assert len({item.document for item in items}) == len(items)


def test_outcomes_survive_being_written_and_read() -> None:
    for name in ("truthfulqa", "truthfulqa-paper", "advglue", "mmlu", "mnli-letter"):
        prepared = prepared_task(name)
        for item in judged(prepared):
            assert prepared.item_type.model_validate_json(item.model_dump_json()) == item


def test_only_texts_with_an_original_are_changed_back() -> None:
    row = {"premise": "It rayns.", "original_premise": "It rains.", "original_hypothesis": None, "label": 0}
    assert before_attack(row, "original_")["premise"] == "It rains."
    assert before_attack({"premise": "It rains.", "label": 0}, "original_") == {"premise": "It rains.", "label": 0}


def test_attacked_texts_without_any_original_have_no_drop() -> None:
    plain = {
        split: [{name: value for name, value in row.items() if not name.startswith("original_")} for row in rows]
        for split, rows in ((split, made_rows("adv_glue", split)) for split in find_task("advglue").splits)
    }
    prepared = prepared_task("advglue", **plain)
    metrics = prepared.summarise(judged(prepared)).metrics
    assert "acc" in metrics
    assert not {"acc_original", "acc_drop"} & metrics.keys()


def test_every_task_prepares_its_made_rows_and_says_how_it_scores() -> None:
    scoring = {}
    for name, task in load_tasks().items():
        if not isinstance(task, PerplexityTask | WordPerplexityTask):
            scoring.setdefault(prepared_task(name).details.scoring, []).append(name)
    assert sorted(scoring["next-token"]) == ["advglue-letter", "mmlu-letter", "mnli-letter", "qnli-letter"]
    names = ["arc_challenge", "arc_easy", "arc_easy-validation", "hellaswag", "piqa"]
    assert sorted(scoring["per-character"]) == names
    assert {"mmlu", "mnli", "qnli", "winogrande", "advglue", "truthfulqa"} <= set(scoring["summed"])
