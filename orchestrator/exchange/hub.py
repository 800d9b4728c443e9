"""A subject's figures as the Hub's `.eval_results` files, one a task, in the form that huggingface_hub writes.

A file belongs into the repository of the model that was evaluated. Which benchmarks and tasks the Hub knows, it alone
can say: `task_id` is this project's name of the task.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import PurePath

from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from ruamel.yaml import YAML

from harness.contract import DatasetDescription
from orchestrator.evidence.value import Value
from orchestrator.exchange.evaluations import Evaluated, Evaluation, folder_name

RESULTS_FOLDER = ".eval_results"
_HUB_ORIGIN = "hub:"


@dataclass(frozen=True)
class Source:
    """Where a reader finds the evidence behind the figures."""

    url: str
    name: str | None = None


def hub_files(
    evaluated: Evaluated, data_sets: Mapping[str, DatasetDescription], source: Source | None, left_out: list[str]
) -> Iterator[tuple[PurePath, str]]:
    """The files of a subject below its folder; what has none is told in `left_out`, with the reason."""
    for one in evaluated.evaluations:
        try:
            entry = _entry(evaluated, one, data_sets, source)
        except _NoEntry as reason:
            left_out.append(f"{one.task.name} of {evaluated.name}: {reason}")
            continue
        name = f"{folder_name(one.task.name)}.yaml"
        yield PurePath(evaluated.folder_name, RESULTS_FOLDER, name), _yaml(entry)


class _NoEntry(Exception):
    """Why a figure has no place on the Hub, in a clause."""


def _entry(
    evaluated: Evaluated, one: Evaluation, data_sets: Mapping[str, DatasetDescription], source: Source | None
) -> EvalResultEntry:
    value, data = one.value, data_sets.get(one.task.dataset)
    if data is None or data.hub_repository is None:
        raise _NoEntry(f"the data set {one.task.dataset} has no repository on the Hub")
    if value is None:
        raise _NoEntry("there is no figure of it")
    if value.withheld is not None:
        raise _NoEntry(value.withheld)
    return EvalResultEntry(
        dataset_id=data.hub_repository,
        task_id=one.task.name,
        value=value.value,
        dataset_revision=_revision(one),
        date=one.begun.isoformat(timespec="seconds"),
        source_url=source.url if source is not None else None,
        source_name=source.name if source is not None else None,
        notes=_notes(evaluated, one, value),
    )


def _revision(one: Evaluation) -> str | None:
    """The data set's commit, where the rows came from the Hub."""
    origin = one.result.dataset_origin
    return origin.rpartition("@")[2] if origin.startswith(_HUB_ORIGIN) and "@" in origin else None


def _notes(evaluated: Evaluated, one: Evaluation, value: Value) -> str:
    subject = evaluated.subject
    how = f"{subject.method} {subject.setting} of" if subject.method else "dense,"
    facts = [
        f"{how} {evaluated.source}",
        f"{value.metric}, protocol {value.protocol}",
        f"{value.items} of {one.result.items_available} items",
        f"95 % interval {value.interval.low:.6g} to {value.interval.high:.6g}" if value.interval else None,
        value.lost,
        value.caveat,
        f"rows from {one.result.dataset_origin}",
        f"computed by {evaluated.engine} in {one.result.dtype.value}",
        f"LLMCBench stage {one.stage.provenance.key}",
    ]
    return "; ".join(fact for fact in facts if fact)


def _yaml(entry: EvalResultEntry) -> str:
    writer = YAML()
    writer.default_flow_style = False
    writer.width = 2**16
    text = StringIO()
    writer.dump(eval_result_entries_to_yaml([entry]), text)
    return text.getvalue()
