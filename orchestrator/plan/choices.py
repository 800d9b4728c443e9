"""Whether a manifest's choices for the scores name tasks that measure what they are to stand for."""

from collections.abc import Mapping

from harness.contract import REFERENCE_ENGINE, TaskDescription, unknown
from orchestrator.errors import BadManifest, located
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest, ScoringEntry
from orchestrator.tracks import PERPLEXITY_TASK, TRACK_1_TASKS, TRACK_6_TASKS

_NAMES = (*TRACK_1_TASKS, *TRACK_6_TASKS)


def check_engine(manifest: Manifest, catalog: ImageCatalog) -> None:
    """Hold the engine of the scores against those that evaluate.

    Raises:
        BadManifest: the manifest chooses one for the scores that it does not evaluate by.
    """
    engines = [catalog.full_name(name) for name in manifest.evaluate.engine] if manifest.evaluate else []
    chosen = catalog.full_name(manifest.scoring.engine)
    if chosen not in (REFERENCE_ENGINE, *engines):
        raise BadManifest(
            unknown("engine of the scores", chosen, engines or [REFERENCE_ENGINE]),
            hint="`scoring.engine` is one that `evaluate.engine` lists; see docs/manifests.md",
            where=("scoring", "engine"),
        )


def check_choices(scoring: ScoringEntry, tasks: Mapping[str, TaskDescription]) -> None:
    """Hold the choices against the tasks that the images offer.

    Raises:
        BadManifest: a name is unknown, or a task's figure is of another kind or data set than the one it replaces.
    """
    for name, task in scoring.tasks.items():
        with located("scoring", "tasks", name):
            _check_choice(name, task, tasks)
    if scoring.generalization is not None:
        with located("scoring", "generalization"):
            _check_choice(PERPLEXITY_TASK, scoring.generalization, tasks)


def _check_choice(name: str, task: str, tasks: Mapping[str, TaskDescription]) -> None:
    if name not in _NAMES:
        raise BadManifest(unknown("data set of the scores", name, _NAMES), hint="see `scoring` in docs/manifests.md")
    for known in (name, task):
        if known not in tasks:
            raise BadManifest(unknown("task", known, tasks), hint="`orchestrator images list` has all")
    usual, other = tasks[name], tasks[task]
    if (usual.dataset, usual.higher_is_better) != (other.dataset, other.higher_is_better):
        raise BadManifest(
            f"task {task!r} cannot stand for {name!r} in a score: its {other.metric} is on {other.dataset}",
            hint=f"choose a task with the {usual.metric} on {usual.dataset}",
        )
