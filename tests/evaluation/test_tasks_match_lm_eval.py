"""Every task that lm-eval defines asks for the tokens that lm-eval asks for, and judges the answers as it does."""

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.contract.tasks import AttackedTask, ChoiceTask, TruthTask, load_tasks
from harness.evaluation.definitions import ModelFacts, Prepared, prepare
from harness.evaluation.prepared import Answer, TokenRequest
from harness.evaluation.tasks import find_task
from tests.support.lm_eval_reference import TokenisingModel, lm_eval_task, tokens_of
from tests.support.small_checkpoints import byte_tokenizer
from tests.support.task_rows import made_rows, real_rows
from tests.support.zoo import zoo_folder

CONTEXT = 4096
REAL_ROWS = 20
SHARED_SPLITS = ("validation", "validation_matched", "validation_mismatched", "test")
"""What the definitions call the split that they evaluate."""

CHOICE_TASKS = [task.name for task in load_tasks().values() if isinstance(task, ChoiceTask)]


SETUPS = (("bytes", "made"), ("bytes with a beginning", "real"), ("trained", "made"))


@pytest.fixture(scope="module", params=SETUPS, ids=" on ".join)
def setup(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A tokenizer, and where the rows come from."""
    tokenizer, source = request.param
    return tokenizer, source


@pytest.fixture(scope="module")
def tokenizer(setup: tuple[str, str]) -> PreTrainedTokenizerBase:
    if setup[0] == "trained":
        return AutoTokenizer.from_pretrained(zoo_folder("llama-mha"))
    return byte_tokenizer(add_beginning=setup[0] == "bytes with a beginning")


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> TokenisingModel:
    return TokenisingModel(tokenizer, CONTEXT)


@pytest.fixture
def source(setup: tuple[str, str]) -> str:
    return setup[1]


def rows_of(task: ChoiceTask | AttackedTask | TruthTask, source: str) -> dict[str, list[dict[str, Any]]]:
    if source == "made" or task.name == "mnli-mismatched":
        return {split: made_rows(task.dataset, split) for split in task.splits}
    return {split: real_rows(task.dataset, split, REAL_ROWS) for split in task.splits}


def facts(tokenizer: PreTrainedTokenizerBase) -> ModelFacts:
    return ModelFacts(tokenizer, CONTEXT, len(tokenizer))


def everything(prepared: Prepared[Any]) -> list[list[TokenRequest]]:
    return [list(prepared.requests(index)) for index in range(len(prepared))]


def made_up_answers(count: int, seed: int) -> list[Answer]:
    draw = random.Random(seed)
    return [Answer(-40 * draw.random(), greedy=False) for _ in range(count)]


def lm_eval_verdicts(task: Any, answers: Sequence[Sequence[Answer]]) -> list[dict[str, float]]:
    return [
        task.process_results(document, [(answer.log_likelihood, answer.greedy) for answer in given])
        for document, given in zip(task.task_docs, answers, strict=True)
    ]


@pytest.mark.parametrize("name", CHOICE_TASKS)
def test_a_choice_task_asks_and_judges_as_lm_eval_does(
    name: str, source: str, tokenizer: PreTrainedTokenizerBase, model: TokenisingModel
) -> None:
    task = find_task(name)
    assert isinstance(task, ChoiceTask)
    rows = rows_of(task, source)
    prepared = prepare(task, rows, facts(tokenizer))
    content = rows[task.split]
    groups = list(dict.fromkeys(str(row[task.group_by]) for row in content)) if task.group_by else [None]
    references = []
    for group in groups:
        own = [row for row in content if group is None or row[task.group_by] == group]
        splits = dict.fromkeys(SHARED_SPLITS, own)
        if task.group_by:
            examples = rows[task.shots_split] if task.shots_split else own
            splits["dev"] = [row for row in examples if row[task.group_by] == group]
        references.append(lm_eval_task(task.definition.format(group=group), splits, shots=task.shots))
    assert everything(prepared) == [asked for reference in references for asked in tokens_of(reference, model)]

    answers = [made_up_answers(len(prepared.requests(index)), index) for index in range(len(prepared))]
    items = [prepared.judge(index, given) for index, given in enumerate(answers)]
    verdicts, place = [], 0
    for reference in references:
        count = len(reference.task_docs)
        verdicts += lm_eval_verdicts(reference, answers[place : place + count])
        place += count
    metrics = prepared.summarise(items).metrics
    for metric in ("acc", "acc_norm") if task.metric == "acc_norm" else ("acc",):
        assert [item.correct[metric] for item in items] == [verdict[metric] for verdict in verdicts]
        assert metrics[metric] == pytest.approx(statistics.fmean(verdict[metric] for verdict in verdicts))


def test_attacked_texts_are_asked_and_judged_as_glue_is(
    source: str, tokenizer: PreTrainedTokenizerBase, model: TokenisingModel
) -> None:
    task = find_task("advglue")
    assert isinstance(task, AttackedTask)
    rows = rows_of(task, source)
    prepared = prepare(task, rows, facts(tokenizer))
    expected, correct, before = [], [], []
    for split, definition in task.parts.items():
        attacked = lm_eval_task(definition, dict.fromkeys(SHARED_SPLITS, rows[split]))
        unattacked = [
            {**row, **{name.removeprefix("original_"): row[name] for name in row if name.startswith("original_")}}
            for row in rows[split]
        ]
        original = lm_eval_task(definition, dict.fromkeys(SHARED_SPLITS, unattacked))
        pairs = zip(rows[split], tokens_of(attacked, model), tokens_of(original, model), strict=True)
        for place, (row, choices, originals) in enumerate(pairs):
            has_original = any(name.startswith("original_") for name in row)
            expected.append(choices + originals if has_original else choices)
            answers = made_up_answers(len(expected[-1]), len(expected) - 1)
            given = [(answer.log_likelihood, False) for answer in answers]
            correct.append(attacked.process_results(attacked.task_docs[place], given[: len(choices)])["acc"])
            if has_original:
                verdict = original.process_results(original.task_docs[place], given[len(choices) :])
                before.append((len(expected) - 1, verdict["acc"]))
    assert everything(prepared) == expected

    items = [prepared.judge(index, made_up_answers(len(asked), index)) for index, asked in enumerate(expected)]
    summary = prepared.summarise(items)
    assert [item.correct["acc"] for item in items] == correct
    assert summary.metrics["acc"] == pytest.approx(statistics.fmean(correct))
    assert summary.metrics["acc_original"] == pytest.approx(statistics.fmean(verdict for _, verdict in before))
    lost = [verdict - correct[index] for index, verdict in before]
    assert summary.metrics["acc_drop"] == pytest.approx(statistics.fmean(lost))
    assert {item.group for item in items} == set(task.parts)


def test_truthfulqa_gives_both_scores_in_one_pass(
    source: str, tokenizer: PreTrainedTokenizerBase, model: TokenisingModel
) -> None:
    task = find_task("truthfulqa")
    assert isinstance(task, TruthTask)
    rows = rows_of(task, source)
    prepared = prepare(task, rows, facts(tokenizer))
    first, second = (
        lm_eval_task(definition, {"validation": rows[task.split]})
        for definition in (task.mc1_definition, task.mc2_definition)
    )
    both = list(zip(tokens_of(first, model), tokens_of(second, model), strict=True))
    assert everything(prepared) == [mc1 + mc2 for mc1, mc2 in both]

    answers = [made_up_answers(len(prepared.requests(index)), index) for index in range(len(prepared))]
    items = [prepared.judge(index, given) for index, given in enumerate(answers)]
    for given, item, (mc1, _), one, two in zip(answers, items, both, first.task_docs, second.task_docs, strict=True):
        pairs = [(answer.log_likelihood, False) for answer in given]
        assert item.correct["mc1"] == first.process_results(one, pairs[: len(mc1)])["acc"]
        assert item.correct["mc2"] == pytest.approx(second.process_results(two, pairs[len(mc1) :])["acc"])
    metrics = prepared.summarise(items).metrics
    assert metrics["mc2"] == pytest.approx(statistics.fmean(item.correct["mc2"] for item in items))


def test_truthfulqas_shares_survive_likelihoods_below_the_smallest_double() -> None:
    tokenizer = byte_tokenizer()
    task = find_task("truthfulqa")
    prepared = prepare(task, {"multiple_choice": made_rows("truthfulqa", "")}, facts(tokenizer))
    values = [-1.0, -2.0, -2000.0, -2001.0, -2000.0]
    item = prepared.judge(0, [Answer(value, greedy=False) for value in values])
    weights = [1.0, math.exp(-1.0), 1.0]
    assert item.correct == {"mc1": 1.0, "mc2": pytest.approx((weights[0] + weights[1]) / sum(weights))}
    assert item.picked == 0


def test_kept_outcomes_give_truthfulqas_scores_again() -> None:
    rows = {"multiple_choice": made_rows("truthfulqa", "")}
    prepared = prepare(find_task("truthfulqa"), rows, facts(byte_tokenizer()))
    for index in range(len(prepared)):
        item = prepared.judge(index, made_up_answers(len(prepared.requests(index)), index))
        mc1, mc2 = item.log_likelihoods[: item.mc1_choices], item.log_likelihoods[item.mc1_choices :]
        weights = [math.exp(value) for value in mc2]
        assert item.correct["mc1"] == float(mc1.index(max(mc1)) == item.gold)
        assert item.correct["mc2"] == pytest.approx(sum(weights[place] for place in item.mc2_true) / sum(weights))
