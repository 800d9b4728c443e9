"""What the host computes of the items of each task is what the worker says of them, and each item is one."""

import random
from pathlib import Path

import pytest

from harness.contract import Dtype, EvaluateResult
from harness.contract.tasks import PerplexityTask, load_tasks
from harness.errors import Unsupported
from harness.evaluation.definitions import ModelFacts, prepare
from harness.evaluation.outcomes import shortest_float32, write_items
from harness.evaluation.prepared import Answer
from orchestrator.figures.checking import Kept, check
from orchestrator.figures.items_file import Contradiction
from tests.support.small_checkpoints import byte_tokenizer
from tests.support.task_rows import made_rows

CONTEXT = 4096
STRANGE = 1
"""The number of the item of which the model makes no finite number."""


def evaluated(name: str, folder: Path) -> EvaluateResult:
    task = load_tasks()[name]
    if isinstance(task, PerplexityTask):
        rows = {split: [{task.text_field: "It rained. " * 1500}] for split in task.splits}
    else:
        rows = {split: made_rows(task.dataset, split) for split in task.splits}
    tokenizer = byte_tokenizer(add_beginning=name.endswith("-bos"))
    prepared = prepare(task, rows, ModelFacts(tokenizer, CONTEXT, len(tokenizer)))
    chance = random.Random(name)
    items = []
    for index in range(len(prepared)):
        answers = [
            Answer(
                float("nan") if index == STRANGE else shortest_float32(-len(one.continuation) * chance.uniform(0.1, 3)),
                greedy=False,
            )
            for one in prepared.requests(index)
        ]
        items.append(prepared.judge(index, answers))
    summary = prepared.summarise(items)
    return EvaluateResult(
        task=name,
        protocol=task.protocol,
        metric=task.metric,
        metrics=summary.metrics,
        items=summary.scored,
        items_available=prepared.available,
        excluded=summary.excluded,
        items_file=write_items(items, folder),
        dataset_origin="made by a test",
        details=prepared.details,
        dtype=Dtype.FLOAT32,
        dtype_reason="test",
        wall_seconds=1,
    )


@pytest.mark.parametrize("name", load_tasks())
def test_the_host_computes_every_metric_of_the_task_from_its_items(name: str, tmp_path: Path) -> None:
    try:
        result = evaluated(name, tmp_path)
    except Unsupported as unsupported:
        pytest.skip(unsupported.message)
    outcomes = check(result, Kept(tmp_path, {}))
    assert outcomes is not None
    assert outcomes.metrics == pytest.approx(result.metrics, rel=1e-9)
    means = [metric for metric in result.metrics if not metric.endswith("_stderr")]
    assert [outcomes.metrics[metric] for metric in means] == [result.metrics[metric] for metric in means]
    assert (outcomes.scored, outcomes.excluded) == (result.items, 1)
    for metric, value in result.metrics.items():
        forged = result.model_copy(update={"metrics": {**result.metrics, metric: 1.001 * value + 0.001}})
        with pytest.raises(Contradiction, match=f"^{metric} is said to be"):
            check(forged, Kept(tmp_path, {}))
