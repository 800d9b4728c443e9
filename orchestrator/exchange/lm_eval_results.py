"""A subject's evaluations as lm-evaluation-harness would have written them: its results file."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Literal, TypeVar

import numpy as np

from harness.contract import DatasetDescription
from harness.contract.items import ChoiceItem, Item, JudgedItem, SegmentItem
from orchestrator.exchange.evaluations import (
    Evaluated,
    Evaluation,
    folder_name,
    metrics_better_when_higher,
)
from orchestrator.exchange.lm_eval import (
    NO_FILTER,
    EvalConfig,
    Metrics,
    Own,
    ResultsDocument,
    SampleCount,
    TaskConfig,
)
from orchestrator.figures.metrics import choice_metrics
from orchestrator.images.catalog import ImageCatalog
from orchestrator.store import RunRecord

Fact = TypeVar("Fact")

ABSENT = (
    "documents, prompts, targets as text, and their hashes: the store keeps a digest of each row and no text of others",
    "whether a choice was the greedy continuation: it is not asked",
    "seeds, batch sizes, the listing of the environment and the tokenizer's special tokens: not recorded in lm-eval's "
    "form",
    "the version numbers of lm-eval's tasks: `versions` holds the name of the protocol in their place",
)


def results_document(
    evaluated: Evaluated, items: Mapping[str, Sequence[Item]], record: RunRecord, catalog: ImageCatalog
) -> ResultsDocument:
    """All that is stored of a subject's evaluations. `items` are those of each task, by its name."""
    evaluations = {one.task.name: one for one in evaluated.evaluations}
    parts = {name: subtasks(name, items[name]) for name in evaluations}
    rows = {name: _task_metrics(one) for name, one in evaluations.items()}
    of_parts = {
        name: _metrics(name, _part_figures(members), len(members))
        for found in parts.values()
        for name, members in found.items()
    }
    libraries = evaluated.evaluations[0].stage.final.environment.libraries
    data_sets = catalog.datasets
    return ResultsDocument(
        results=rows | of_parts,
        groups={name: rows[name] for name, found in parts.items() if found} or None,
        group_subtasks={name: tuple(found) for name, found in parts.items() if found},
        configs={name: _config(one, items[name], data_sets) for name, one in evaluations.items()},
        versions=_with_parts({name: one.result.protocol for name, one in evaluations.items()}, parts),
        n_shot=_with_parts(
            {name: one.result.details.shots for name, one in evaluations.items() if one.result.details}, parts
        ),
        higher_is_better=_with_parts(
            {name: metrics_better_when_higher(one.task, _whole_figures(one)) for name, one in evaluations.items()},
            parts,
        ),
        n_samples={
            name: SampleCount(original=one.result.items_available, effective=one.asked_items)
            for name, one in evaluations.items()
        },
        config=_eval_config(evaluated),
        git_hash=record.facts.commit,
        date=min(one.begun for one in evaluated.evaluations).timestamp(),
        transformers_version=libraries.get("transformers"),
        lm_eval_version=libraries.get("lm-eval"),
        model_source=evaluated.engine,
        model_name=evaluated.name,
        model_name_sanitized=evaluated.folder_name,
        total_evaluation_time_seconds=str(sum(one.stage.provenance.wall_seconds for one in evaluated.evaluations)),
        llmcbench=_own(evaluated, record),
    )


def subtasks(task: str, items: Sequence[Item]) -> dict[str, list[JudgedItem]]:
    """The items of each part of a task, such as a subject, by the name that the part has in the files."""
    judged = [item for item in items if isinstance(item, JudgedItem) and item.group is not None]
    ordered = sorted(judged, key=lambda item: (item.group or "", item.index))
    grouped = groupby(ordered, key=lambda item: item.group or "")
    return {f"{task}_{folder_name(group)}": list(members) for group, members in grouped}


def _with_parts(facts: Mapping[str, Fact], parts: Mapping[str, Iterable[str]]) -> dict[str, Fact]:
    """What holds of a task holds of its parts."""
    return {name: fact for task, fact in facts.items() for name in (task, *parts[task])}


def _whole_figures(one: Evaluation) -> dict[str, float]:
    """Those of the whole task; a part's are called `metric/part`."""
    return {name: value for name, value in one.outcomes.metrics.items() if "/" not in name}


def _task_metrics(one: Evaluation) -> Metrics:
    return _metrics(one.task.name, _whole_figures(one), one.asked_items)


def _part_figures(members: Sequence[JudgedItem]) -> dict[str, float]:
    names = dict.fromkeys(name for item in members for name in item.correct)
    values = {name: np.array([item.correct.get(name, math.nan) for item in members]) for name in names}
    return choice_metrics(values, {})


def _metrics(task: str, figures: Mapping[str, float], items: int) -> Metrics:
    """JSON has no infinity: a perplexity that is infinite is left out."""
    finite = {f"{name},{NO_FILTER}": value for name, value in figures.items() if math.isfinite(value)}
    return {"name": task, "alias": task, "sample_len": items, **finite}


def _config(one: Evaluation, items: Sequence[Item], data_sets: Mapping[str, DatasetDescription]) -> TaskConfig:
    data = data_sets.get(one.task.dataset)
    return TaskConfig(
        task=one.task.name,
        dataset_path=data.hub_repository if data is not None else None,
        test_split=one.task.splits[0] if len(one.task.splits) == 1 else None,
        output_type=_output_type(items[0]),
        num_fewshot=one.result.details.shots if one.result.details else None,
        metadata={
            "protocol": one.result.protocol,
            "metric": one.result.metric,
            "dataset": one.task.dataset,
            "dataset_origin": one.result.dataset_origin,
        },
    )


def _output_type(item: Item) -> Literal["multiple_choice", "loglikelihood_rolling"] | None:
    if isinstance(item, SegmentItem):
        return "loglikelihood_rolling"
    return "multiple_choice" if isinstance(item, ChoiceItem) else None


def _eval_config(evaluated: Evaluated) -> EvalConfig:
    results = [one.result for one in evaluated.evaluations]
    dtypes = {result.dtype.value for result in results}
    parameters = {result.cost.parameter_count for result in results if result.cost is not None}
    limits = {
        one.asked_items if one.asked_items < one.result.items_available else None for one in evaluated.evaluations
    }
    subject = evaluated.subject
    read = evaluated.evaluations[0].stage.provenance.material.get("inputs", {}).get("checkpoint")
    arguments = {
        "model": evaluated.name,
        "dense_source": evaluated.source,
        "method": subject.method,
        "setting": subject.setting,
        "checkpoint_sha256": read,
    }
    return EvalConfig(
        model=evaluated.engine,
        model_args={name: str(value) for name, value in arguments.items() if value},
        model_num_parameters=parameters.pop() if len(parameters) == 1 else None,
        model_dtype=dtypes.pop() if len(dtypes) == 1 else None,
        device=evaluated.evaluations[0].stage.final.environment.device_kind.value,
        limit=limits.pop() if len(limits) == 1 else None,
    )


def _limit(one: Evaluation) -> int | None:
    return one.asked_items if one.asked_items < one.result.items_available else None


def _own(evaluated: Evaluated, record: RunRecord) -> Own:
    evaluations = {one.task.name: one for one in evaluated.evaluations}
    return Own(
        run=record.run,
        version=record.facts.version,
        device_model=record.device_model,
        engine=evaluated.engine,
        stages={name: one.stage.provenance.key for name, one in evaluations.items()},
        notes={name: one.result.notes for name, one in evaluations.items() if one.result.notes},
        excluded={name: one.result.excluded for name, one in evaluations.items() if any(one.result.excluded.values())},
        withheld={name: one.value.withheld for name, one in evaluations.items() if one.value and one.value.withheld},
        absent=ABSENT,
    )
