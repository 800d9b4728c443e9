"""Whether a manifest's choices for the scores name tasks that measure what they are to stand for."""

from collections.abc import Mapping

from harness.contract import REFERENCE_ENGINE, TaskDescription, unknown
from orchestrator.errors import BadManifest, located
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest, ScoringEntry
from orchestrator.tracks import PERPLEXITY_TASK, TRACK_1_TASKS, TRACK_6_TASKS

_NAMES = (*TRACK_1_TASKS, *TRACK_6_TASKS)
_PERPLEXITY = "perplexity"


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
    check_same_kind(name, task, tasks)


def check_same_kind(asked: str, other: str, tasks: Mapping[str, TaskDescription]) -> None:
    """Hold a task against the one that it is to stand for: of one data set, or both a perplexity, of whatever text.

    Raises:
        BadManifest: its figure is of another kind or data set.
    """
    usual, stand_in = tasks[asked], tasks[other]
    same_data = (usual.dataset, usual.higher_is_better) == (stand_in.dataset, stand_in.higher_is_better)
    if not same_data and {usual.metric, stand_in.metric} != {_PERPLEXITY}:
        raise BadManifest(
            f"task {other!r} cannot stand for {asked!r} in a score: its {stand_in.metric} is on {stand_in.dataset}",
            hint=f"choose a task with the {usual.metric} on {usual.dataset}",
        )
