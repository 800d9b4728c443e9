"""Multiple choice by lm-eval's own task definitions, on rows that were handed over: nothing is downloaded.

A definition is read from its file in the installed package, since lm-eval's task manager would first read all of them.
"""

import importlib.metadata
import importlib.util
import math
import statistics
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.contract import Reason
from harness.errors import BadCheckpoint, BadRequest, Unsupported
from harness.evaluation.catalog import ChoiceTask
from harness.evaluation.outcomes import (
    NOT_FINITE,
    ChoiceItem,
    Scored,
    document_digest,
    finite_or_none,
    standard_error,
)

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

_SPLIT = "items"


def score_choices(
    task: ChoiceTask,
    rows: Sequence[dict[str, Any]],
    loaded: "LoadedModel",
    *,
    limit: int | None,
    batch_size: int,
    done: Callable[[int, int], None],
) -> Scored:
    """Accuracy on the first `limit` rows; `done` is told how many items' worth of choices are finished.

    Raises:
        Unsupported: another version of lm-eval is installed than the protocol names.
        BadRequest: the rows do not fit the task's definition.
        BadCheckpoint: the model gives no item a finite likelihood.
    """
    from harness.evaluation.scorer import ChoiceScorer

    chosen = rows[:limit]
    definition = load_definition(task, chosen)
    requests = definition.instances

    def requests_done(finished: int, total: int) -> None:
        done(finished * len(chosen) // total, len(chosen))

    done(0, len(chosen))
    scorer = ChoiceScorer(loaded, batch_size=batch_size, done=requests_done)
    answers = scorer.loglikelihood(requests, disable_tqdm=True)
    items = tuple(
        _judge(definition, chosen[index], index, [answer for _, answer in group])
        for index, group in groupby(zip(requests, answers, strict=True), key=lambda pair: int(pair[0].doc_id))
    )
    return _summarise(items, available=len(rows))


def load_definition(task: ChoiceTask, rows: Sequence[dict[str, Any]]) -> Any:
    """lm-eval's task object over `rows`, its requests built without examples. Raises as `score_choices` does."""
    _check_version(task)
    import datasets  # type: ignore[import-untyped]
    from jinja2 import TemplateError
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    datasets.disable_progress_bars()
    configuration = load_yaml(_tasks_folder() / task.definition)
    for structural in ("tag", "group", "task_list"):
        configuration.pop(structural, None)
    splits = {"training_split": None, "validation_split": _SPLIT, "test_split": None}
    data = {"custom_dataset": lambda **_: {_SPLIT: datasets.Dataset.from_list(list(rows))}}
    try:
        definition = ConfigurableTask(config={**configuration, **splits, **data, "num_fewshot": 0})
        definition.build_all_requests(rank=0, world_size=1)
    except (KeyError, ValueError, TypeError, IndexError, TemplateError) as unfit:
        raise BadRequest(
            f"the rows of {task.dataset}/{task.split} do not fit {task.protocol}: {unfit!r}",
            hint="fetch the data set again; its field names must be those of the Hugging Face hub",
        ) from unfit
    return definition


def _check_version(task: ChoiceTask) -> None:
    installed = importlib.metadata.version("lm-eval")
    if installed != task.lm_eval_version:
        raise Unsupported(
            Reason.TASK,
            f"{task.protocol} is defined by lm-eval {task.lm_eval_version}, but {installed} is installed",
            hint="install the image's lock, or give the task a new protocol name",
        )


def _tasks_folder() -> Path:
    package = importlib.util.find_spec("lm_eval")
    if package is None or package.origin is None:
        raise Unsupported(Reason.TASK, "lm-eval is not installed", hint="install the image's lock")
    return Path(package.origin).parent / "tasks"


def _judge(definition: Any, row: dict[str, Any], index: int, answers: list[tuple[float, bool]]) -> ChoiceItem:
    document = definition.task_docs[index]
    choices = definition.doc_to_choice(document)
    gold = int(definition.doc_to_text(document) if definition.multiple_input else definition.doc_to_target(document))
    likelihoods = [answer[0] for answer in answers]
    item = ChoiceItem(
        index=index,
        document=document_digest(row),
        log_likelihoods=tuple(finite_or_none(value) for value in likelihoods),
        gold=gold,
    )
    if not all(map(math.isfinite, likelihoods)):
        return item
    per_character = [
        value / len(choice) if choice else -math.inf for value, choice in zip(likelihoods, choices, strict=True)
    ]
    correct = definition.process_results(document, answers)
    return item.model_copy(
        update={
            "picked": likelihoods.index(max(likelihoods)),
            "picked_norm": per_character.index(max(per_character)),
            "correct": {name: float(correct[name]) for name in ("acc", "acc_norm") if name in correct},
        }
    )


def _summarise(items: tuple[ChoiceItem, ...], *, available: int) -> Scored:
    scored = [item for item in items if item.picked is not None]
    if not scored:
        raise BadCheckpoint(
            "the model gives no item a finite likelihood: its weights or activations overflow",
            hint="evaluate in float32 (parameter dtype); if that does not help, the checkpoint itself is broken",
        )
    metrics = {}
    for name in scored[0].correct:
        values = [item.correct[name] for item in scored]
        metrics[name] = statistics.fmean(values)
        if (error := standard_error(values)) is not None:
            metrics[f"{name}_stderr"] = error
    excluded = {NOT_FINITE: len(items) - len(scored)} if len(scored) < len(items) else {}
    return Scored(metrics=metrics, items=items, scored=len(scored), available=available, excluded=excluded)
