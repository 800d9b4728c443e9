"""Why a run has no value at a place: a stage that failed, or nothing that was asked for or could be planned."""

from collections.abc import Iterator

from harness.contract import REFERENCE_ENGINE, Operation
from orchestrator.evidence.value import Gap, Variant
from orchestrator.images.catalog import ImageCatalog
from orchestrator.stages import Subject
from orchestrator.store import RunRecord, StageState
from orchestrator.tracks import Track, expected_tasks, parts_of_task

_NOT_ASKED_FOR = "not in this run's manifest"
_ACCURACY_ONLY = "the manifest asks for its accuracy alone"


def run_gaps(record: RunRecord, catalog: ImageCatalog) -> Iterator[Gap]:
    """Those of all that was never planned."""
    yield from _not_asked_for(record, catalog)
    yield from _accuracy_only(record)
    yield from _not_planned(record, catalog)


def counted_task(task: str, subject: Subject, record: RunRecord, catalog: ImageCatalog) -> str:
    """The name under which a task's figure counts: that of the one it stands for, where this was not evaluated too."""
    stands_for = catalog.tasks[task][1].stands_for if task in catalog.tasks else None
    if stands_for is None:
        return task
    return task if stands_for in record.evaluated.get(subject.model, ()) else stands_for


def stage_gaps(
    state: StageState, subject: Subject, reason: str, record: RunRecord, catalog: ImageCatalog
) -> Iterator[Gap]:
    """Those of a stage that was planned, and has no result or not the figure that counts."""
    variant, model, scoring = Variant.of(subject), subject.model, record.manifest.scoring
    if state.operation is Operation.EVALUATE:
        task = counted_task(str(state.parameters["task"]), subject, record, catalog)
        if state.parameters.get("engine", REFERENCE_ENGINE) == catalog.full_name(scoring.engine):
            for track, part in parts_of_task(task, scoring):
                yield Gap(variant=variant, model=model, reason=reason, track=track, part=part, name=task)
    elif state.operation is Operation.PROFILE:
        yield Gap(variant=variant, model=model, reason=reason, track=Track.INFERENCE_CONSUMPTION)
    elif state.operation is Operation.BENCHMARK:
        backend = str(state.parameters["backend"])
        yield Gap(variant=variant, model=model, reason=reason, track=Track.HARDWARE_ACCELERATION, part=backend)
    elif state.operation is Operation.COMPRESS:
        yield Gap(variant=variant, model=model, reason=reason, track=Track.TRAINING_CONSUMPTION)


def _not_asked_for(record: RunRecord, catalog: ImageCatalog) -> Iterator[Gap]:
    """Parts of the complete scores that the manifest leaves out, or that no image can measure yet."""
    evaluate, scoring = record.manifest.evaluate, record.manifest.scoring
    asked = evaluate.tasks if evaluate else ()
    engines = tuple(map(catalog.full_name, evaluate.engine)) if evaluate else ()
    subjects = (state.subject for state in record.stages.values() if state.subject is not None)
    for variant in dict.fromkeys(map(Variant.of, subjects)):
        for task in expected_tasks(scoring):
            if task not in asked:
                known = task in catalog.tasks
                reason = _NOT_ASKED_FOR if known else "no image offers this task yet"
                yield Gap(variant=variant, name=task, reason=reason)
            elif catalog.full_name(scoring.engine) not in engines:
                reason = f"evaluated by {', '.join(engines)} alone, and scores count what {scoring.engine} finds"
                yield Gap(variant=variant, name=task, reason=reason)
        if record.manifest.profile is None:
            yield Gap(variant=variant, track=Track.INFERENCE_CONSUMPTION, reason=_NOT_ASKED_FOR)


def _accuracy_only(record: RunRecord) -> Iterator[Gap]:
    """Of variants that were compressed, and by the manifest neither profiled nor timed as the others were."""
    planned: dict[Variant, set[Operation]] = {}
    for subject, operation in (
        *((state.subject, state.operation) for state in record.stages.values()),
        *((refused.subject, refused.operation) for refused in record.not_planned),
    ):
        if subject is not None:
            planned.setdefault(Variant.of(subject), set()).add(operation)
    asked = {
        Operation.PROFILE: (record.manifest.profile, Track.INFERENCE_CONSUMPTION),
        Operation.BENCHMARK: (record.manifest.benchmark, Track.HARDWARE_ACCELERATION),
    }
    for variant, operations in planned.items():
        for operation, (entry, track) in asked.items():
            if Operation.COMPRESS in operations and entry is not None and operation not in operations:
                yield Gap(variant=variant, track=track, reason=_ACCURACY_ONLY)


def _not_planned(record: RunRecord, catalog: ImageCatalog) -> Iterator[Gap]:
    """What the plan knew to be impossible."""
    evaluate, scoring = record.manifest.evaluate, record.manifest.scoring
    for refused in record.not_planned:
        variant, model = Variant.of(refused.subject), refused.subject.model
        reason = f"{refused.message} (source: {refused.source})" if refused.source else refused.message
        if refused.operation is Operation.COMPRESS:
            yield Gap(variant=variant, model=model, reason=reason)
        elif refused.operation is Operation.BENCHMARK:
            yield Gap(
                variant=variant, model=model, reason=reason, track=Track.HARDWARE_ACCELERATION, part=refused.backend
            )
        elif refused.backend == catalog.full_name(scoring.engine):
            tasks = evaluate.tasks if evaluate else ()
            for task in tasks if refused.task is None else (refused.task,):
                yield Gap(variant=variant, model=model, reason=reason, name=task)
