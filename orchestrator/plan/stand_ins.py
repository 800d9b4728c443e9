"""Which tasks are evaluated where the data of those that the manifest asks for cannot be had."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.contract import unknown
from orchestrator.errors import BadManifest, located
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import EvaluateEntry, Manifest, ScoringEntry
from orchestrator.manifest.data_sources import DATA_VARIABLE, dataset_source
from orchestrator.plan.choices import check_same_kind
from orchestrator.plan.data import DataSources
from orchestrator.tracks import TRACK_1_TASKS, TRACK_6_TASKS


def with_stand_ins(
    manifest: Manifest, catalog: ImageCatalog, data: Path | None, sources: DataSources
) -> tuple[Manifest, str | None]:
    """The manifest with the tasks that can be evaluated here, and which stand for which and why; None where none does.

    `data` is the local data folder. A task whose stand-in cannot be had either stays, unless no hub or package has it
    at all: then what is missing here is the stand-in's.

    Raises:
        BadManifest: a stand-in is unknown, or measures something else than what it stands for.
    """
    entry = manifest.evaluate
    lacking: dict[str, _Lack] = {}
    taken: dict[str, str] = {}
    for asked, other in entry.stand_ins.items() if entry else ():
        with located("evaluate", "stand_ins", asked):
            _check(asked, other, catalog)
            lack = _lack(asked, catalog, data, sources)
            if lack is not None and (lack.local_alone or _lack(other, catalog, data, sources) is None):
                lacking[asked], taken[asked] = lack, other
    if entry is None or not taken:
        return manifest, None
    changed = manifest.model_copy(
        update={
            "evaluate": _evaluated(entry, taken),
            "scoring": _scored(manifest.scoring, taken),
            "exclude": tuple(
                one.model_copy(update={"task": tuple(dict.fromkeys(taken.get(task, task) for task in one.task))})
                for one in manifest.exclude
            ),
        }
    )
    return changed, _decision(taken, lacking, data, sources)


def _check(asked: str, other: str, catalog: ImageCatalog) -> None:
    for task in (asked, other):
        if task not in catalog.tasks:
            raise BadManifest(unknown("task", task, catalog.tasks), hint="`orchestrator images list` has all")
    check_same_kind(asked, other, {name: task for name, (_, task) in catalog.tasks.items()})


@dataclass(frozen=True)
class _Lack:
    """Why a task's data cannot be had here. `local_alone`: no hub or package has the split at all."""

    why: str
    local_alone: bool


def _lack(name: str, catalog: ImageCatalog, data: Path | None, sources: DataSources) -> _Lack | None:
    _, task = catalog.tasks[name]
    try:
        lack = sources.lack(dataset_source(task.dataset, sources.known, data, needed=task.splits), f"task {name!r}")
    except BadManifest as nowhere:
        return _Lack(f"{nowhere.message}; {nowhere.hint}", local_alone=True)
    return None if lack is None else _Lack(lack.message, local_alone=False)


def _evaluated(entry: EvaluateEntry, taken: Mapping[str, str]) -> EvaluateEntry:
    limit = entry.limit
    if isinstance(limit, dict):
        limit = {task: count for task, count in limit.items() if task not in taken}
    return entry.model_copy(
        update={
            "tasks": tuple(dict.fromkeys(taken.get(task, task) for task in entry.tasks)),
            "stand_ins": {asked: other for asked, other in entry.stand_ins.items() if asked not in taken},
            "fidelity": tuple(dict.fromkeys(taken.get(task, task) for task in entry.fidelity)),
            "limit": limit,
        }
    )


def _scored(scoring: ScoringEntry, taken: Mapping[str, str]) -> ScoringEntry:
    """What stands for a task counts in its place."""
    tasks = {name: taken.get(task, task) for name, task in scoring.chosen_tasks.items()}
    for asked, other in taken.items():
        if asked in (*TRACK_1_TASKS, *TRACK_6_TASKS):
            tasks.setdefault(asked, other)
    generalization = scoring.generalization
    return scoring.model_copy(
        update={
            "tasks": tasks,
            "truthfulness": scoring.truthfulness_metric,
            "generalization": None if generalization is None else taken.get(generalization, generalization),
        }
    )


def _decision(taken: Mapping[str, str], lacking: Mapping[str, _Lack], data: Path | None, sources: DataSources) -> str:
    pairs = ", ".join(f"{other} in place of {asked}" for asked, other in taken.items())
    why = next(iter(lacking.values())).why
    if all(lack.local_alone for lack in lacking.values()):
        return f"data: {pairs}, of which there are local files alone: {why}"
    local = f"{data} has not all of it" if data else f"{DATA_VARIABLE} is not set, there is no data/ in the checkout"
    why = f"{local}, and {sources.silence}" if sources.silence else why
    return f"data: {pairs}, whose text or questions can be had here: {why}"
