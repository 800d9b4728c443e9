"""A whole run: make the images ready, see what is already known, check the space, run the rest, keep the record."""

import threading
from dataclasses import dataclass

from harness.contract import Event, Sha256, harness_digest
from orchestrator.errors import Interrupted
from orchestrator.host.devices import ChosenDevice
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.run.execution import Finished, Workshop, execute
from orchestrator.run.progress import Display
from orchestrator.run.scheduling import Executor
from orchestrator.run.space import check_space
from orchestrator.runtime.base import Runtime
from orchestrator.stages import Plan, Stage, StageOutput
from orchestrator.store import (
    Failure,
    FailureKind,
    RunRecord,
    StageRecord,
    StageState,
    StageStatus,
    Store,
    now,
)
from orchestrator.store.cleaning import sweep_attempts


@dataclass(frozen=True)
class Setup:
    """What a run stands on, chosen before it starts."""

    manifest: Manifest
    plan: Plan
    catalog: ImageCatalog
    store: Store
    runtime: Runtime
    device: ChosenDevice
    decisions: tuple[str, ...]

    @property
    def name(self) -> str:
        """The same manifest on the same runtime and device is the same run: running it again continues it."""
        return f"{self.manifest.name}-{self.manifest.digest[:8]}"


class Run:
    """One run at work. `states` grows as stages end; every change is saved before it is shown."""

    def __init__(self, setup: Setup, display: Display, cancel: threading.Event) -> None:
        self._setup = setup
        self._display = display
        self._cancel = cancel
        self._lock = threading.Lock()
        self._created = now()
        self._states = {stage.id: StageState.planned(stage) for stage in setup.plan.stages}
        self._artifacts: dict[str, Sha256] = {}
        self._decisions = setup.decisions
        self._workshop = Workshop(
            store=setup.store,
            catalog=setup.catalog,
            runtime=setup.runtime,
            harness_digest=harness_digest(),
            device_model=setup.device.model,
            run=setup.name,
            cancel=cancel,
            note=display.note,
        )

    def perform(self, executor: Executor) -> RunRecord:
        """Run to the end.

        Raises:
            Interrupted: the run was stopped; its record says so and is saved.
            OrchestratorError: an image cannot be made ready, or the disk has no room; nothing was started.
        """
        setup = self._setup
        with setup.store.in_use():
            self._sweep()
            for stage in setup.plan.stages:
                self._workshop.identity(stage)
            missing = self._look_up()
            self._decisions += check_space(setup.store.root, missing)
            self._display.begin(len(setup.plan.stages))
            try:
                for stage in setup.plan.stages:
                    if stage not in missing:
                        self._display.finished(stage.id, self._states[stage.id])
                executor.run(missing, self._work, self._skip, done=self._artifacts.keys())
            except (KeyboardInterrupt, Interrupted) as stopped:
                self._cancel.set()
                self._save(interrupted=True)
                raise Interrupted(
                    "interrupted; what was finished is kept", hint="run the same command again to go on"
                ) from stopped
            finally:
                self._display.end()
            return self._save()

    def _sweep(self) -> None:
        swept = (*self._setup.runtime.sweep(), *sweep_attempts(self._setup.store))
        if swept:
            self._display.note(f"removed what {len(swept)} interrupted stage(s) had left behind")

    def _look_up(self) -> list[Stage]:
        """Fill in every stage whose result is known, following results to the stages that read them."""
        missing = []
        for stage in self._setup.plan.stages:
            record = None
            if all(need in self._artifacts for need in stage.needs):
                key, _ = self._workshop.key(stage, self._inputs(stage))
                record = self._setup.store.find(key)
            if record is None:
                missing.append(stage)
            else:
                self._settle(stage, Finished(key, record, cached=True))
        return missing

    def _work(self, stage: Stage) -> bool:
        self._states[stage.id] = self._states[stage.id].reached(StageStatus.RUNNING)

        def on_event(event: Event) -> None:
            self._display.event(stage.id, event)

        finished = execute(
            stage, self._inputs(stage), self._workshop, lambda: self._display.started(stage.id), on_event
        )
        state = self._settle(stage, finished)
        self._save()
        self._display.finished(stage.id, state)
        return isinstance(finished.outcome, StageRecord)

    def _skip(self, stage: Stage, cause: str) -> None:
        failure = Failure(kind=FailureKind.BLOCKED, message=f"needs {cause}, which has no result")
        state = self._states[stage.id].reached(StageStatus.BLOCKED, failure=failure)
        self._states[stage.id] = state
        self._save()
        self._display.finished(stage.id, state)

    def _inputs(self, stage: Stage) -> dict[str, Sha256]:
        return {
            name: self._artifacts[source.stage]
            for name, source in stage.inputs.items()
            if isinstance(source, StageOutput)
        }

    def _settle(self, stage: Stage, finished: Finished) -> StageState:
        outcome = finished.outcome
        if isinstance(outcome, StageRecord):
            if outcome.artifact is not None:
                self._artifacts[stage.id] = outcome.artifact.digest
            status = StageStatus.CACHED if finished.cached else StageStatus.DONE
            facts: dict[str, object] = {"wall_seconds": outcome.provenance.wall_seconds}
        else:
            status = StageStatus.UNSUPPORTED if outcome.kind is FailureKind.UNSUPPORTED else StageStatus.FAILED
            facts = {"failure": outcome, "wall_seconds": finished.wall_seconds}
        state = self._states[stage.id].reached(status, key=finished.key, **facts)
        self._states[stage.id] = state
        return state

    def _save(self, *, interrupted: bool = False) -> RunRecord:
        with self._lock:
            states = dict(self._states)
            if interrupted:
                states = {
                    name: state.reached(StageStatus.INTERRUPTED) if state.status is StageStatus.RUNNING else state
                    for name, state in states.items()
                }
            record = RunRecord(
                run=self._setup.name,
                manifest=self._setup.manifest,
                runtime=self._setup.runtime.name,
                device_model=self._setup.device.model,
                decisions=self._decisions,
                not_planned=self._setup.plan.not_planned,
                stages=states,
                created=self._created,
                updated=now(),
                interrupted=interrupted,
            )
            self._setup.store.save_run(record)
            return record
