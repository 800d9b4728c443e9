"""One stage, from its key to its stored record: look it up, else run it, judge it, keep it."""

import errno
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness.contract import DeviceKind, Event, Sha256
from orchestrator.errors import Interrupted, OrchestratorError
from orchestrator.images.catalog import ImageCatalog
from orchestrator.run.keys import key_material, stage_key
from orchestrator.run.resources import hold_devices
from orchestrator.run.verdict import judge
from orchestrator.runtime.base import Invocation, Runtime
from orchestrator.stages import HostFolder, ImageIdentity, Stage
from orchestrator.store import BadArtifact, Failure, FailureKind, Provenance, StageRecord, Store, now


@dataclass
class Workshop:
    """What every stage of a run shares. Safe to use from several threads."""

    store: Store
    catalog: ImageCatalog
    runtime: Runtime
    device_model: str
    run: str
    cancel: threading.Event
    note: Callable[[str], None]
    _identities: dict[tuple[str, DeviceKind], ImageIdentity] = field(default_factory=dict)
    _preparing: threading.Lock = field(default_factory=threading.Lock)

    def identity(self, stage: Stage) -> ImageIdentity:
        """Make the stage's image ready, once a run."""
        with self._preparing:
            if self.cancel.is_set():
                raise Interrupted("stopped before an image was ready")
            slot = (stage.image, stage.device.kind)
            if slot not in self._identities:
                image = self.catalog.images[stage.image]
                self._identities[slot] = self.runtime.prepare(image, stage.device.kind, self.note)
            return self._identities[slot]

    def key(self, stage: Stage, inputs: dict[str, Sha256]) -> tuple[Sha256, dict[str, object]]:
        """The stage's key, given the digests of the artifacts that it reads."""
        image = self.catalog.images[stage.image].description
        material = key_material(stage, image, self.identity(stage), inputs, self.device_model)
        return stage_key(material), material


@dataclass(frozen=True)
class Finished:
    """A stage's end: its record, or its failure. `cached` when nothing had to be run."""

    key: Sha256 | None
    outcome: StageRecord | Failure
    wall_seconds: float = 0.0
    cached: bool = False


def execute(
    stage: Stage,
    inputs: dict[str, Sha256],
    workshop: Workshop,
    on_start: Callable[[], None],
    on_event: Callable[[Event], None],
) -> Finished:
    """Bring `stage` to its end. Every fault becomes a `Failure`; only an interruption is raised.

    Raises:
        Interrupted: the run was cancelled.
    """
    key: Sha256 | None = None
    try:
        key, material = workshop.key(stage, inputs)
        if record := workshop.store.find(key):
            return Finished(key, record, cached=True)
        waits = partial(workshop.note, f"{stage.id}: waits for another orchestrator that is at this very stage")
        with workshop.store.claim(key, workshop.cancel, waits):
            if record := workshop.store.find(key):
                return Finished(key, record, cached=True)
            with hold_devices(stage, workshop.cancel, workshop.note):
                on_start()
                return _run(stage, inputs, workshop, key, material, on_event)
    except Interrupted:
        raise
    except OrchestratorError as failure:
        return Finished(key, Failure(kind=FailureKind.INFRASTRUCTURE, message=failure.message, hint=failure.hint))
    except OSError as failure:
        return Finished(key, _host_failure(failure))


def _run(
    stage: Stage,
    inputs: dict[str, Sha256],
    workshop: Workshop,
    key: Sha256,
    material: dict[str, object],
    on_event: Callable[[Event], None],
) -> Finished:
    begin, started = time.monotonic(), now()
    with workshop.store.attempt(key) as folder:
        invocation = _invocation(stage, inputs, workshop, folder)
        completed = workshop.runtime.run(invocation, on_event, workshop.cancel)
        verdict = judge(invocation, completed)
        wall_seconds = time.monotonic() - begin
        if isinstance(verdict, Failure):
            if verdict.kind is FailureKind.INTERRUPTED:
                raise Interrupted(verdict.message)
            return Finished(key, _keep(verdict, workshop.store, folder, key), wall_seconds)
        provenance = Provenance(
            stage=stage.id,
            key=key,
            material=material,
            runtime=workshop.runtime.name,
            host=socket.gethostname(),
            started=started,
            wall_seconds=completed.wall_seconds,
            host_peak_memory_bytes=completed.peak_memory_bytes,
        )
        try:
            record = workshop.store.commit(folder, verdict, provenance)
        except BadArtifact as bad:
            failure = Failure(
                kind=FailureKind.BAD_ARTIFACT, message=str(bad), hint="the image is at fault; its attempt is kept"
            )
            return Finished(key, _keep(failure, workshop.store, folder, key), wall_seconds)
    return Finished(key, record, wall_seconds)


def _invocation(stage: Stage, inputs: dict[str, Sha256], workshop: Workshop, folder: Path) -> Invocation:
    paths = {
        name: source.path if isinstance(source, HostFolder) else workshop.store.artifact(inputs[name])
        for name, source in stage.inputs.items()
    }
    return Invocation(
        image=workshop.catalog.images[stage.image],
        operation=stage.operation,
        parameters=stage.parameters,
        folder=folder,
        stage=stage.id,
        run=workshop.run,
        inputs=paths,
        device=stage.device,
        limits=stage.limits,
    )


def _keep(failure: Failure, store: Store, folder: Path, key: Sha256) -> Failure:
    return failure.model_copy(update={"folder": store.keep_failure(folder, key)})


def _host_failure(failure: OSError) -> Failure:
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(
            kind=FailureKind.DISK_FULL,
            message=f"the disk of the store is full: {failure}",
            hint="free space with `orchestrator clean`, or choose another disk with --store",
        )
    return Failure(kind=FailureKind.INFRASTRUCTURE, message=f"{type(failure).__name__}: {failure}", hint="see the log")
