"""A whole run: make the images ready, take its record, see what is already known, check the space, run the rest."""

import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.contract import Event, Sha256
from orchestrator.errors import HostFault, Interrupted
from orchestrator.host.devices import ChosenDevice
from orchestrator.host.faults import explained
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.manifest.data_sources import NO_DATA_FOLDER
from orchestrator.run.execution import Finished, Workshop, execute
from orchestrator.run.facts import resolve_facts
from orchestrator.run.known import Known, inputs_of, look_up
from orchestrator.run.progress import Display
from orchestrator.run.scheduling import Executor
from orchestrator.run.space import check_space, stated_bytes
from orchestrator.runtime.base import Runtime
from orchestrator.stages import Plan, Stage
from orchestrator.store import (
    Failure,
    FailureKind,
    RunFacts,
    RunRecord,
    StageRecord,
    StageState,
    StageStatus,
    Store,
    now,
)
from orchestrator.store.cleaning import sweep_attempts
from orchestrator.store.history import Taken, take_run


@dataclass(frozen=True)
class Setup:
    """What a run stands on, chosen before it starts. `data` is the folder that data sets come from first, if any."""

    manifest: Manifest
    plan: Plan
    catalog: ImageCatalog
    store: Store
    runtime: Runtime
    device: ChosenDevice
    decisions: tuple[str, ...]
    data: Path | None = None


class Run:
    """One run. The same request with the same facts goes on with an unfinished run; else its record is a new one."""

    def __init__(self, setup: Setup, display: Display, cancel: threading.Event) -> None:
        self._setup = setup
        self._display = display
        self._cancel = cancel
        self._workshop = Workshop(
            store=setup.store,
            catalog=setup.catalog,
            runtime=setup.runtime,
            device_model=setup.device.model,
            run=setup.manifest.name,
            cancel=cancel,
            note=display.note,
        )

    def perform(self, executor: Executor) -> RunRecord:
        """Run to the end.

        Raises:
            Interrupted: the run was stopped; its record says so and is saved.
            HostFault: the disk is full or read-only, or the store is gone; the record says so where it can be written.
            OrchestratorError: an image cannot be made ready, the disk has no room, or the store cannot be written.
        """
        setup, workshop = self._setup, self._workshop
        with explained(), setup.store.in_use():
            self._sweep()
            images = {f"{one.image} on {one.device.kind.value}": workshop.identity(one) for one in setup.plan.stages}
            data = NO_DATA_FOLDER if setup.data is None else str(setup.data)
            facts = resolve_facts(setup.manifest, setup.plan, setup.runtime.name.value, setup.device, data, images)
            with take_run(setup.store, setup.manifest.name, facts) as taken:
                workshop.run = taken.name
                known = look_up(
                    setup.plan.stages,
                    setup.store,
                    lambda stage, inputs: workshop.key(stage, inputs)[0],
                    workshop.verifier.is_whole,
                )
                workshop.refused = known.refused
                record = _Record(
                    setup, facts, taken, check_space(setup.store.root, known.missing, stated_bytes(setup.manifest))
                )
                self._announce(record, known)
                return _Work(record, known, workshop, self._display).perform(executor)

    def _sweep(self) -> None:
        swept = (*self._setup.runtime.sweep(), *sweep_attempts(self._setup.store))
        if swept:
            self._display.note(f"removed what {len(swept)} interrupted stage(s) had left behind")

    def _announce(self, record: "_Record", known: Known) -> None:
        self._display.note(record.announcement)
        for name, loss in known.unreadable.items():
            self._display.note(f"{name} is made again: {loss.message}")


class _Record:
    """What of the run's record stays the same while stages come to their ends."""

    def __init__(self, setup: Setup, facts: RunFacts, taken: Taken, decisions: tuple[str, ...]) -> None:
        self.name = taken.name
        self.plan = setup.plan
        self._facts = facts
        self._taken = taken
        self._manifest = setup.manifest.model_dump(mode="json")
        earlier = taken.earlier
        self._created = now() if earlier is None else earlier.created
        self._done = {} if earlier is None else earlier.stages
        before = () if earlier is None else earlier.decisions
        self._decisions = tuple(dict.fromkeys((*before, *setup.decisions, *decisions, *_other_commit(earlier, facts))))

    @property
    def announcement(self) -> str:
        if self._taken.earlier is not None:
            return f"run: {self.name} goes on where it stopped"
        why = f" is a new record, since {self._taken.why_new}" if self._taken.why_new else ""
        return f"run: {self.name}{why}"

    def has_done(self, stage: str, key: Sha256) -> bool:
        """Whether an earlier part of this run measured this very result."""
        earlier = self._done.get(stage)
        return earlier is not None and (earlier.status, earlier.key) == (StageStatus.DONE, key)

    def at(
        self, states: dict[str, StageState], damages: Iterable[str], *, interrupted: bool = False, ended: bool = False
    ) -> RunRecord:
        """The record as it is now. `damages` are the artifacts that were found damaged and are made again."""
        moment = now()
        return RunRecord(
            run=self.name,
            facts=self._facts,
            manifest=self._manifest,
            decisions=tuple(dict.fromkeys((*self._decisions, *damages))),
            not_planned=self.plan.not_planned,
            stages=states,
            created=self._created,
            updated=moment,
            ended=moment if ended else None,
            interrupted=interrupted,
        )


def _other_commit(earlier: RunRecord | None, facts: RunFacts) -> tuple[str, ...]:
    """What the record says where a run goes on with other source than it had before."""
    if earlier is None or earlier.facts.commit == facts.commit:
        return ()
    return (f"went on at commit {facts.commit or 'unknown'}, after commit {earlier.facts.commit or 'unknown'}",)


class _Work:
    """What a run does to its stages. `states` changes as they end; every change is saved before it is shown."""

    def __init__(self, record: _Record, known: Known, workshop: Workshop, display: Display) -> None:
        self._record = record
        self._known = known
        self._workshop = workshop
        self._display = display
        self._lock = threading.Lock()
        self._states = {stage.id: StageState.planned(stage) for stage in record.plan.stages}
        self._artifacts: dict[str, Sha256] = {}

    def perform(self, executor: Executor) -> RunRecord:
        """Run what is missing, to the end. Raises as `Run.perform` does."""
        known = self._known
        self._display.begin(len(self._states))
        try:
            self._adopt()
            executor.run(known.missing, self._work, self._skip, done=known.records.keys())
        except (KeyboardInterrupt, Interrupted) as stopped:
            self._workshop.cancel.set()
            self._save(interrupted=True)
            raise Interrupted(
                "interrupted; what was finished is kept", hint="run the same command again to go on"
            ) from stopped
        except HostFault:
            self._workshop.cancel.set()
            with suppress(HostFault):
                self._save(interrupted=True)
            raise
        finally:
            self._display.end()
        return self._save(ended=True)

    def _adopt(self) -> None:
        """Fill in every stage whose result stands already. What this very run had done before stays its own."""
        shown = {}
        for stage, record in self._known.records.items():
            key = self._known.keys[stage]
            shown[stage] = self._settle(stage, Finished(key, record, cached=True))
            if self._record.has_done(stage, key):
                self._states[stage] = shown[stage].reached(StageStatus.DONE)
        self._save()
        for stage, state in shown.items():
            self._display.finished(stage, state)

    def _work(self, stage: Stage) -> bool:
        self._states[stage.id] = self._states[stage.id].reached(StageStatus.RUNNING)

        def on_event(event: Event) -> None:
            self._display.event(stage.id, event)

        finished = execute(
            stage, inputs_of(stage, self._artifacts), self._workshop, lambda: self._display.started(stage.id), on_event
        )
        state = self._settle(stage.id, finished)
        self._save()
        self._display.finished(stage.id, state)
        return isinstance(finished.outcome, StageRecord)

    def _skip(self, stage: Stage, cause: str) -> None:
        failure = Failure(kind=FailureKind.BLOCKED, message=f"needs {cause}, which has no result")
        state = self._states[stage.id].reached(StageStatus.BLOCKED, failure=failure)
        self._states[stage.id] = state
        self._save()
        self._display.finished(stage.id, state)

    def _settle(self, stage: str, finished: Finished) -> StageState:
        outcome = finished.outcome
        if isinstance(outcome, StageRecord):
            if outcome.provenance.artifact is not None:
                self._artifacts[stage] = outcome.provenance.artifact
            status = StageStatus.CACHED if finished.cached else StageStatus.DONE
            facts: dict[str, object] = {"wall_seconds": outcome.provenance.wall_seconds}
        else:
            status = StageStatus.UNSUPPORTED if outcome.kind is FailureKind.UNSUPPORTED else StageStatus.FAILED
            facts = {"failure": outcome, "wall_seconds": finished.wall_seconds}
        state = self._states[stage].reached(status, key=finished.key, **facts)
        self._states[stage] = state
        return state

    def _save(self, *, interrupted: bool = False, ended: bool = False) -> RunRecord:
        with self._lock:
            states = dict(self._states)
            if interrupted:
                states = {
                    name: state.reached(StageStatus.INTERRUPTED) if state.status is StageStatus.RUNNING else state
                    for name, state in states.items()
                }
            record = self._record.at(states, self._workshop.verifier.damages, interrupted=interrupted, ended=ended)
            self._workshop.store.runs.save(record)
            return record
