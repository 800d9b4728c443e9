"""How a report quotes a row: by the description of its data set, with choices numbered as every task numbers them."""

from pathlib import Path

import pytest

from harness.contract.items import ChoiceItem, TruthItem, document_digest
from harness.contract.tasks import ChoiceTask, load_tasks
from harness.evaluation.definitions import ModelFacts, prepare
from harness.evaluation.definitions.choice import choice_groups
from harness.evaluation.prepared import Answer
from orchestrator.images.catalog import ImageCatalog
from orchestrator.score.questions import question_of
from tests.support.small_checkpoints import byte_tokenizer
from tests.support.task_rows import made_rows

TASKS = {name: task for name, task in load_tasks().items() if "perplexity" not in task.kind}
ITS_WORDS_ARE_THE_CHOICES = ("arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande")
WITHOUT_CHOICES = ("truthfulqa-paper",)
"""Their choices are put together from lists within one text."""


@pytest.fixture(scope="module")
def catalog() -> ImageCatalog:
    return ImageCatalog(Path(__file__).parents[2] / "images")


@pytest.mark.parametrize("name", TASKS)
def test_every_item_of_a_task_has_a_question_with_as_many_choices(catalog: ImageCatalog, name: str) -> None:
    task, tokenizer = TASKS[name], byte_tokenizer()
    rows = {split: made_rows(task.dataset, split) for split in task.splits}
    prepared = prepare(task, rows, ModelFacts(tokenizer, 4096, len(tokenizer)), limit=None)
    described = catalog.datasets[task.dataset]
    assert described.licence
    forms = {split: described.splits[split].question for split in rows}
    quoted = {
        document_digest(row): question_of(form, row)
        for split, form in forms.items()
        for row in rows[split]
        if form is not None
    }
    for index in range(len(prepared)):
        item = prepared.judge(index, [Answer(-1.0, False) for _ in prepared.requests(index)])
        assert isinstance(item, ChoiceItem)
        question = quoted[item.document]
        assert question is not None
        assert question.text
        count = item.mc1_choices if isinstance(item, TruthItem) else len(item.log_likelihoods)
        assert len(question.choices) == (0 if name in WITHOUT_CHOICES else count)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.dataset in ITS_WORDS_ARE_THE_CHOICES])
def test_choices_are_quoted_in_the_order_that_they_are_scored_in(catalog: ImageCatalog, name: str) -> None:
    task = TASKS[name]
    assert isinstance(task, ChoiceTask)
    (group,), _ = choice_groups(task, {task.split: made_rows(task.dataset, task.split)}, limit=None)
    form = catalog.datasets[task.dataset].splits[task.split].question
    assert form is not None
    for place, row in enumerate(group.rows):
        question = question_of(form, row)
        assert question is not None
        for choice, pair in zip(question.choices, group.questions.pairs(place), strict=True):
            words = [word for word in choice.replace("[title]", "").split() if word.isalpha()]
            assert words
            assert all(word in "".join(pair) for word in words)
