"""One stage, from its key to its stored record: look it up, else run it, judge it, keep it."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from harness.contract import (
    RESUME_NAME,
    Descriptor,
    EvaluateParameters,
    Event,
    FetchParameters,
    ResultEvent,
    Sha256,
    TaskDescription,
    Wheel,
)
from orchestrator.errors import HostFault, Interrupted, OrchestratorError
from orchestrator.host.faults import ends_a_run, full_disk, host_fault
from orchestrator.host.files import remove_if_there, size_bytes
from orchestrator.host.load import LoadWatch, MachineLoad
from orchestrator.images.catalog import ImageCatalog
from orchestrator.run.claims import FalseClaim, check_content
from orchestrator.run.keeping import goes
from orchestrator.run.keys import whole_key
from orchestrator.run.resources import hold_devices
from orchestrator.run.space import RESERVE_BYTES
from orchestrator.run.verdict import judge, violation
from orchestrator.run.workshop import Workshop
from orchestrator.runtime.base import Completed, Ending, Invocation
from orchestrator.runtime.launch import LEAST_FREE_BYTES
from orchestrator.runtime.reach import Reach, reach_of
from orchestrator.stages import OUTPUT_NAME, HostFolder, Stage
from orchestrator.store import BadArtifact, Failure, FailureKind, Provenance, StageRecord, now

_FULL_BYTES = {
    FailureKind.DISK_FULL: RESERVE_BYTES,
    FailureKind.CRASHED: 16 * 2**20,
    FailureKind.INTERNAL: 16 * 2**20,
    FailureKind.CONTRACT_VIOLATION: 16 * 2**20,
}
"""A worker that ends so, and leaves less than this free, met a full disk, as all that follow would."""


@dataclass(frozen=True)
class Finished:
    """A stage's end: its record, or its failure. `cached` when nothing had to be run."""

    key: Sha256 | None
    outcome: StageRecord | Failure
    wall_seconds: float = 0.0
    cached: bool = False


Perform = Callable[
    [Stage, dict[str, Sha256], Workshop, Callable[[Sha256], None], Callable[[Event], None]], Finished | None
]
"""What brings a stage to its end as `execute` does, here or elsewhere."""


def execute(
    stage: Stage,
    inputs: dict[str, Sha256],
    workshop: Workshop,
    on_start: Callable[[Sha256], None],
    on_event: Callable[[Event], None],
) -> Finished | None:
    """Bring `stage` to its end, or return None: another orchestrator is at it. `on_start` gets its key.

    Every fault of the stage's own becomes a `Failure`.

    Raises:
        Interrupted: the run was cancelled.
        HostFault: the disk is full or read-only, or the store is gone: other stages would end no better.
    """
    key: Sha256 | None = None
    try:
        key, material = workshop.key(stage, inputs)
        if record := workshop.find(key):
            return Finished(key, record, cached=True)
        whole = whole_key(material)
        with workshop.store.claim(whole) as is_ours:
            if not is_ours:
                return None
            if record := workshop.find(key):
                return Finished(key, record, cached=True)
            with workshop.store.attempt(whole) as folder:
                ran = _run(stage, inputs, workshop, folder, partial(on_start, key), on_event)
                if not _is_to_be_repeated(stage, ran, workshop):
                    return _keep(ran, stage, workshop, key, material)
                remove_if_there(folder / OUTPUT_NAME / RESUME_NAME)
            workshop.note(f"{stage.id} is measured once more: {ran.load.disturbance}")
            with workshop.store.attempt(whole) as folder:
                again = _run(stage, inputs, workshop, folder, partial(on_start, key), on_event)
                return _keep(replace(again, repeated=True), stage, workshop, key, material)
    except (Interrupted, HostFault):
        raise
    except OrchestratorError as failure:
        workshop.store.check_there()
        return Finished(key, Failure(kind=FailureKind.INFRASTRUCTURE, message=failure.message, hint=failure.hint))
    except OSError as failure:
        workshop.store.check_there()
        if ends_a_run(failure):
            raise host_fault(failure) from failure
        message = f"{type(failure).__name__}: {failure}"
        return Finished(key, Failure(kind=FailureKind.INFRASTRUCTURE, message=message, hint="see the log"))


@dataclass(frozen=True)
class _Ran:
    """What a worker was asked, how it ended, when it was started, and what else the machine did meanwhile."""

    invocation: Invocation
    completed: Completed
    started: datetime
    load: MachineLoad
    repeated: bool = False


def _run(
    stage: Stage,
    inputs: dict[str, Sha256],
    workshop: Workshop,
    folder: Path,
    on_start: Callable[[], None],
    on_event: Callable[[Event], None],
) -> _Ran:
    """Have the worker run. The devices are held for that alone: what it leaves is judged after them.

    The wheels that it may need are handed to it as far as they are in the store, and what it brought is kept there,
    however it ended.
    """
    wheels = _wheels(stage, workshop.catalog)
    with (
        workshop.store.artifacts.reading(inputs.values(), workshop.cancel),
        workshop.store.wheels.handing_out(wheels, workshop.cancel) as handed,
        hold_devices(stage, workshop.cancel, workshop.note),
    ):
        on_start()
        invocation = _invocation(stage, inputs, workshop, folder, handed)
        started, watch = now(), LoadWatch()
        completed = workshop.runtime.run(invocation, on_event, workshop.cancel)
        ran = _Ran(invocation, completed, started, watch.load())
        workshop.store.wheels.take(invocation.output, wheels, _unless(workshop.cancel))
        return ran


def _is_to_be_repeated(stage: Stage, ran: _Ran, workshop: Workshop) -> bool:
    """Whether a time that was taken in rounds was disturbed. What was found has no say in it.

    A peak of memory does not hang on what else the machine does.
    """
    is_measured = stage.timed and stage.turn is not None and isinstance(ran.completed.final, ResultEvent)
    return is_measured and ran.load.disturbance is not None and not workshop.is_busy


def _check_disk(ran: _Ran, failure: Failure) -> None:
    """Remove what a worker filled the disk with; what a next attempt may go on from stays, unless it is that.

    Raises:
        HostFault: the disk is full all the same.
    """
    asked = ran.invocation
    for one in asked.output.iterdir() if ran.completed.ending is Ending.KILLED_FOR_DISK else ():
        if one.name != RESUME_NAME or size_bytes(one) > LEAST_FREE_BYTES:
            remove_if_there(one)
    if shutil.disk_usage(asked.folder).free < _FULL_BYTES.get(failure.kind, 0):
        raise full_disk(f"{asked.stage} ended with: {failure.message}")


def _keep(ran: _Ran, stage: Stage, workshop: Workshop, key: Sha256, material: dict[str, object]) -> Finished:
    """Judge what the worker left, and keep it."""
    folder, completed = ran.invocation.folder, ran.completed

    def failed(failure: Failure) -> Finished:
        workshop.store.check_there()
        kept = failure.model_copy(update={"folder": workshop.store.keep_failure(folder, key)})
        return Finished(key, kept, completed.wall_seconds)

    verdict = judge(ran.invocation, completed)
    if isinstance(verdict, Failure):
        if verdict.kind is FailureKind.INTERRUPTED:
            raise Interrupted(verdict.message)
        _check_disk(ran, verdict)
        return failed(verdict)
    if stage.timed and stage.turn is not None:
        workshop.is_busy = ran.load.disturbance is not None
    provenance = Provenance(
        stage=stage.id,
        key=key,
        material=material,
        whole=None if (whole := whole_key(material)) == key else whole,
        runtime=workshop.runtime.name,
        host=socket.gethostname(),
        started=ran.started,
        wall_seconds=completed.wall_seconds,
        host_peak_memory_bytes=completed.peak_memory_bytes,
        load=ran.load,
        repeated=ran.repeated,
    )
    try:
        if provenance.whole is not None:
            workshop.store.rescue(folder)
        poll = _until(workshop.cancel, stage.limits.deadline_seconds)
        inspect = partial(_inspect, workshop=workshop, poll=poll, passes=goes(stage, workshop.dropped))
        record = workshop.store.commit(folder, verdict, provenance, workshop.cancel, poll, inspect)
    except BadArtifact as bad:
        hint = "the image is at fault; its attempt is kept"
        return failed(Failure(kind=FailureKind.BAD_ARTIFACT, message=f"its artifact is refused: {bad}", hint=hint))
    except FalseClaim as lie:
        return failed(violation(f"result.artifact.{lie}"))
    except _TookTooLong:
        message = f"what the worker left could not be hashed and counted within {stage.limits.deadline_seconds:.0f} s"
        hint = "raise limits.deadline_seconds in the manifest"
        return failed(Failure(kind=FailureKind.TIMED_OUT, message=message, hint=hint))
    workshop.verifier.published(record)
    return Finished(key, record, completed.wall_seconds)


def _inspect(
    artifact: Path, descriptor: Descriptor, *, workshop: Workshop, poll: Callable[[], None], passes: bool
) -> None:
    """Hold an artifact that is to be published against what it says of itself; nobody drops it from then on.

    One that `passes` is marked before it is there, unless it is: somebody may keep that.
    """
    check_content(artifact, descriptor, poll=poll)
    artifacts = workshop.store.artifacts
    artifacts.want(descriptor.digest)
    if passes and not artifacts.path(descriptor.digest).exists():
        artifacts.mark_passing(descriptor.digest)


class _TookTooLong(Exception):
    """Reading what a worker left took longer than a stage may."""


def _unless(cancel: threading.Event) -> Callable[[], None]:
    """What is to be called again and again by work that ends with the run."""

    def poll() -> None:
        if cancel.is_set():
            raise Interrupted("stopped while the worker's output was read")

    return poll


def _until(cancel: threading.Event, seconds: float) -> Callable[[], None]:
    """The same of work that ends after `seconds` at the latest."""
    end, unless = time.monotonic() + seconds, _unless(cancel)

    def poll() -> None:
        unless()
        if time.monotonic() > end:
            raise _TookTooLong

    return poll


def _wheels(stage: Stage, catalog: ImageCatalog) -> tuple[Wheel, ...]:
    """Those that a fetch may download; what has no network downloads none."""
    if not isinstance(stage.parameters, FetchParameters) or reach_of(stage.parameters) is Reach.NOTHING:
        return ()
    return catalog.images[stage.image].description.wheels_for(stage.parameters.source)


def _invocation(
    stage: Stage, inputs: dict[str, Sha256], workshop: Workshop, folder: Path, handed: Mapping[str, Path]
) -> Invocation:
    paths = {
        name: source.path if isinstance(source, HostFolder) else workshop.store.artifacts.path(inputs[name])
        for name, source in stage.inputs.items()
    }
    return Invocation(
        image=workshop.catalog.images[stage.image],
        operation=stage.operation,
        parameters=stage.parameters,
        folder=folder,
        stage=stage.id,
        run=workshop.run,
        inputs={**paths, **handed},
        device=stage.device,
        limits=stage.limits,
        task=_task(stage, workshop.catalog),
    )


def _task(stage: Stage, catalog: ImageCatalog) -> TaskDescription | None:
    return catalog.tasks[stage.parameters.task][1] if isinstance(stage.parameters, EvaluateParameters) else None
