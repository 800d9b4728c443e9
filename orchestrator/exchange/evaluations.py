"""The evaluations of a run, by what was evaluated and by which engine: what other programs call a model's results."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from harness.contract import REFERENCE_ENGINE, EvaluateResult, TaskDescription
from orchestrator.errors import BadManifest
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.value import Value
from orchestrator.figures.outcomes import Outcomes
from orchestrator.images.catalog import ImageCatalog
from orchestrator.stages import Subject
from orchestrator.store import RunRecord, StageRecord

_IN_NO_NAME = re.compile(r"[^\w.%+-]+")
_BETWEEN = "__"


@dataclass(frozen=True)
class Evaluation:
    """A subject's outcomes at one task. `value` is the figure that reports print of it, None where they print none."""

    task: TaskDescription
    result: EvaluateResult
    outcomes: Outcomes
    stage: StageRecord
    value: Value | None

    @property
    def begun(self) -> datetime:
        return self.stage.provenance.started.astimezone(UTC)

    @property
    def ended(self) -> datetime:
        return self.begun + timedelta(seconds=self.stage.provenance.wall_seconds)

    @property
    def asked_items(self) -> int:
        """Scored or excluded."""
        return self.outcomes.scored + self.outcomes.excluded


@dataclass(frozen=True)
class Evaluated:
    """One subject through one engine, at all tasks that it was evaluated at; there is at least one.

    `source` is the dense model's, as the manifest has it.
    """

    run: str
    subject: Subject
    engine: str
    source: str
    evaluations: tuple[Evaluation, ...]

    @property
    def name(self) -> str:
        """For instance `smollm2/gptq-W4A16g64`, and the engine behind it where that is not the reference."""
        return self.subject.label if self.engine == REFERENCE_ENGINE else f"{self.subject.label}/{self.engine}"

    @property
    def folder_name(self) -> str:
        return folder_name(self.name)


def folder_name(name: str) -> str:
    """The name with what no file's name may hold, or a shell would read, replaced."""
    return _IN_NO_NAME.sub(_BETWEEN, name)


@dataclass(frozen=True)
class RunEvaluations:
    """All that a run evaluated, in the order of its stages. `left_out` says what is not among it, and why."""

    subjects: tuple[Evaluated, ...]
    left_out: tuple[str, ...] = ()


def run_evaluations(record: RunRecord, evidence: Evidence, catalog: ImageCatalog) -> RunEvaluations:
    """What a run evaluated, complete or not.

    Raises:
        BadManifest: it evaluated nothing, or two subjects would have the same file's name.
    """
    values = {value.source: value for value in evidence.values}
    sources = {model.name: model.source for model in record.manifest.models}
    found: dict[tuple[Subject, str], list[Evaluation]] = {}
    left_out: dict[str, None] = {}
    for name, stage in evidence.results.items():
        result, subject = stage.final.result, record.stages[name].subject
        if subject is None or not isinstance(result, EvaluateResult):
            continue
        if result.task not in catalog.tasks:
            left_out[f"{result.task}: no image offers this task any more; name the folder of one with --images"] = None
            continue
        key = stage.provenance.key
        one = Evaluation(
            task=catalog.tasks[result.task][1],
            result=result,
            outcomes=evidence.outcomes[key],
            stage=stage,
            value=values.get(key),
        )
        found.setdefault((subject, result.engine), []).append(one)
    if not found:
        raise BadManifest(
            f"the run {record.run} has no finished evaluation to export", hint="ask for tasks under `evaluate`"
        )
    made = tuple(
        Evaluated(record.run, subject, engine, sources.get(subject.model, ""), tuple(ones))
        for (subject, engine), ones in found.items()
    )
    _require_own_names(made)
    return RunEvaluations(made, tuple(left_out))


def _require_own_names(made: tuple[Evaluated, ...]) -> None:
    seen: dict[str, str] = {}
    for one in made:
        other = seen.setdefault(one.folder_name, one.name)
        if other != one.name:
            raise BadManifest(
                f"{other} and {one.name} would both be written to {one.folder_name}",
                hint="call one of the models otherwise, and run that manifest: what is known is not measured again",
            )


def metrics_better_when_higher(task: TaskDescription, metrics: Mapping[str, float]) -> dict[str, bool]:
    """Of each metric, without their standard errors. A drop is a loss, whatever the task is about."""
    return {
        name: task.higher_is_better and not name.endswith("_drop") for name in metrics if not name.endswith("_stderr")
    }
