"""A stage as a document that another process can perform: on another host, and of this very program.

The host that performs it sees the store by the same path. What it finds goes there; what comes back says how it ended.
"""

import threading
from functools import cache
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError

from harness.contract import Frozen, Operation, Sha256
from orchestrator.documents import why_invalid
from orchestrator.errors import DiskFull, HostFault, Interrupted, OrchestratorError
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import shipped_images
from orchestrator.run.execution import Finished, execute
from orchestrator.run.resources import on_gpus_here
from orchestrator.run.setup import named_runtime
from orchestrator.run.workshop import Workshop
from orchestrator.runtime.base import Runtime
from orchestrator.stages import Stage
from orchestrator.store import Failure, FailureKind, StageRecord, Store
from orchestrator.store.cleaning import sweep_attempts

_STAGE = TypeAdapter(Stage)
_SAME = "have the same version of this program, and images with the same files, on all hosts"


class StageJob(Frozen):
    """All that performing a stage takes. `stage` is the planned stage as a document, `inputs` the digests of what it
    reads. `key` is what it comes to where the job was made: another key means another program or device.

    The stage's devices are places: it gets as many of what the process that performs it sees. `refused` is a result of
    this key that does not count. `dropped` are the operations whose artifacts the run drops after their last readers.
    """

    stage: str
    inputs: dict[str, Sha256]
    key: Sha256
    store: Path
    images: tuple[Path, ...]
    runtime: str
    device_model: str
    run: str
    refused: StageRecord | None = None
    dropped: tuple[Operation, ...] = ()

    @classmethod
    def of(cls, stage: Stage, inputs: dict[str, Sha256], workshop: Workshop) -> Self:
        """The job of a stage that a run is at."""
        key, _ = workshop.key(stage, inputs)
        return cls(
            stage=_STAGE.dump_json(stage).decode(),
            inputs=inputs,
            key=key,
            store=workshop.store.root,
            images=workshop.catalog.others,
            runtime=workshop.runtime.name.value,
            device_model=workshop.device_model,
            run=workshop.run,
            refused=workshop.refused.get(key),
            dropped=tuple(workshop.dropped),
        )


class Fault(Frozen):
    """What ends a run, wherever it happened: the disk, or an interruption."""

    is_interruption: bool
    message: str
    hint: str
    is_full_disk: bool = False


class JobEnd(Frozen):
    """How a job ended: `record` or `failure`, a `fault`, or none of them: another orchestrator is at the stage.

    `notes` were said meanwhile, `damages` are artifacts that were found damaged and discarded.
    """

    key: Sha256 | None = None
    record: StageRecord | None = None
    failure: Failure | None = None
    wall_seconds: float = 0.0
    cached: bool = False
    fault: Fault | None = None
    notes: tuple[str, ...] = ()
    damages: tuple[str, ...] = ()

    def finished(self) -> Finished | None:
        """As `execute` returns it.

        Raises:
            Interrupted, HostFault: as where it was performed.
        """
        if self.fault is not None:
            kind = DiskFull if self.fault.is_full_disk else HostFault
            raise (Interrupted if self.fault.is_interruption else kind)(self.fault.message, hint=self.fault.hint)
        outcome = self.record or self.failure
        return None if outcome is None else Finished(self.key, outcome, self.wall_seconds, self.cached)


def perform(job: StageJob, cancel: threading.Event, runtime: Runtime | None = None) -> JobEnd:
    """Perform a job in this process, on devices that it sees. Every fault is in what is returned."""
    notes: list[str] = []
    try:
        store = Store(job.store)
        with store.in_use():
            runtime = runtime or named_runtime(job.runtime, store.root)[0]
            swept = (*runtime.sweep(), *sweep_attempts(store))
            notes += [f"removed what {len(swept)} stage(s) of lost processes had left behind"] if swept else []
            workshop = Workshop(
                store=store,
                catalog=_catalog(job.images),
                runtime=runtime,
                device_model=job.device_model,
                run=job.run,
                cancel=cancel,
                note=notes.append,
                refused={} if job.refused is None else {job.key: job.refused},
                dropped=job.dropped,
            )
            try:
                return _perform(job, workshop).model_copy(update={"notes": tuple(notes)})
            finally:
                store.artifacts.close()  # whose run it is wants it from then on
    except (Interrupted, HostFault) as fault:
        said = Fault(
            is_interruption=isinstance(fault, Interrupted),
            message=fault.message,
            hint=fault.hint,
            is_full_disk=isinstance(fault, DiskFull),
        )
        return JobEnd(fault=said, notes=tuple(notes))
    except OrchestratorError as failure:
        return _failed(failure.message, failure.hint).model_copy(update={"notes": tuple(notes)})


def _perform(job: StageJob, workshop: Workshop) -> JobEnd:
    try:
        planned = _STAGE.validate_json(job.stage)
    except ValidationError as invalid:
        return _failed(f"the job is of another version of this program: {why_invalid(invalid, job.stage)}", _SAME)
    seen = on_gpus_here(planned, job.device_model)
    stage = seen.on(seen.device.uuids[: seen.device_count])
    key, _ = workshop.key(stage, job.inputs)
    if key != job.key:
        return _failed(
            f"{stage.id} would come to another result here ({key[:12]}) than planned ({job.key[:12]})", _SAME
        )
    finished = execute(stage, job.inputs, workshop, lambda key: None, lambda event: None)
    damages = workshop.verifier.damages
    if finished is None:
        return JobEnd(damages=damages)
    outcome = finished.outcome
    return JobEnd(
        key=finished.key,
        record=outcome if isinstance(outcome, StageRecord) else None,
        failure=outcome if isinstance(outcome, Failure) else None,
        wall_seconds=finished.wall_seconds,
        cached=finished.cached,
        damages=damages,
    )


def _failed(message: str, hint: str) -> JobEnd:
    return JobEnd(failure=Failure(kind=FailureKind.INFRASTRUCTURE, message=message, hint=hint))


@cache
def _catalog(images: tuple[Path, ...]) -> ImageCatalog:
    return ImageCatalog(shipped_images(), *images)
