"""A whole run: make the images ready, take its record, see what is already known, check the space, run the rest."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness.contract import Event, Sha256
from orchestrator.errors import DiskFull, HostFault, Interrupted
from orchestrator.host.devices import ChosenDevice
from orchestrator.host.faults import explained
from orchestrator.host.scratch import sweep_all_scratch
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import KeepCheckpoints, Manifest
from orchestrator.manifest.data_sources import NO_DATA_FOLDER
from orchestrator.run.execution import Finished, Perform, Workshop
from orchestrator.run.facts import resolve_facts
from orchestrator.run.keeping import Keeper, Readers, droppable
from orchestrator.run.known import Known, inputs_of, look_up, with_readers
from orchestrator.run.progress import Display
from orchestrator.run.room import Room, ways_of_cleaning
from orchestrator.run.scheduling import End, Executor
from orchestrator.run.sizes import Footprint, stated_bytes
from orchestrator.run.space import check_space, disk_need
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
from orchestrator.store.runs import Note

_TIMES_BEFORE_A_NOTE = 5
"""A short wait for another orchestrator is worth none."""


@dataclass(frozen=True)
class Setup:
    """What a run stands on, chosen before it starts. `data` is the folder that data sets come from first, if any.

    `hub_bytes` has the size of the weights of models, by name, of which the hub was asked. Where it `waits_for_room`, a
    full disk pauses the run.
    """

    manifest: Manifest
    plan: Plan
    catalog: ImageCatalog
    store: Store
    runtime: Runtime
    device: ChosenDevice
    decisions: tuple[str, ...]
    data: Path | None = None
    hub_bytes: Mapping[str, int] = field(default_factory=dict)
    waits_for_room: bool = False

    @property
    def weights_bytes(self) -> dict[str, int]:
        """The size of each model's weights that the manifest or the hub states."""
        return {**self.hub_bytes, **stated_bytes(self.manifest)}


@dataclass(frozen=True)
class Series:
    """Which runs are runs of the same: their name, and a digest of what is asked."""

    name: str
    digest: Sha256


class Run:
    """One run. The same request with the same facts goes on with an unfinished run; else its record is a new one.

    `series` tells what is asked apart from a run of the whole manifest, which it is by default.
    """

    def __init__(self, setup: Setup, display: Display, cancel: threading.Event, series: Series | None = None) -> None:
        self._setup = setup
        self._series = series or Series(setup.manifest.name, setup.manifest.digest)
        self._display = display
        self._announced: str | None = None
        self._workshop = Workshop(
            store=setup.store,
            catalog=setup.catalog,
            runtime=setup.runtime,
            device_model=setup.device.model,
            run=self._series.name,
            cancel=cancel,
            note=display.note,
        )

    def perform(
        self,
        executor: Executor,
        part: Sequence[Stage] | None = None,
        decisions: tuple[str, ...] = (),
        *,
        ends: bool = True,
    ) -> RunRecord:
        """Run to the end, all stages or a `part` of them, of which every checkpoint is kept for another part.

        A record that does not end is gone on with by the next call.

        `decisions` are those that were made since the run began, with their reasons.

        Raises:
            Interrupted: the run was stopped; its record says so and is saved.
            HostFault: the disk is read-only, or the store is gone, or the disk is full and the setup does not wait for
                room; the record says so where it can be written.
            OrchestratorError: an image cannot be made ready, the disk has no room, or the store cannot be written.
        """
        setup, workshop = self._setup, self._workshop
        with explained(), setup.store.in_use():
            self._sweep()
            images = {f"{one.image} on {one.device.kind.value}": workshop.identity(one) for one in setup.plan.stages}
            data = NO_DATA_FOLDER if setup.data is None else str(setup.data)
            facts = resolve_facts(self._series.digest, setup.plan, setup.runtime.name.value, setup.device, data, images)
            stages = setup.plan.stages if part is None else tuple(part)
            with take_run(setup.store, self._series.name, facts) as taken:
                workshop.run = taken.name
                known = self.look_up(stages, workshop.is_whole)
                workshop.refused = known.refused
                keep = setup.manifest.keep_checkpoints if part is None else KeepCheckpoints.ALL
                need = disk_need(setup.plan.stages, known, setup.weights_bytes, setup.catalog, keep)
                space = check_space(setup.store.root, need)
                record = _Record(setup, stages, facts, taken, (*decisions, *space))
                self._announce(record, known)
                work = _Work(record, known, workshop, self._display, keep, need.footprints, setup.waits_for_room)
                return work.perform(executor, ends=ends)

    @property
    def name(self) -> str:
        """The record's, from when it is taken on."""
        return self._workshop.run

    def look_up(self, stages: Sequence[Stage], is_whole: Callable[[StageRecord], bool] | None = None) -> Known:
        """What is known of these stages; see `known.look_up`."""
        return look_up(stages, self._setup.store, self._workshop.key_of, is_whole)

    def _sweep(self) -> None:
        sweep_all_scratch()
        swept = (*self._setup.runtime.sweep(), *sweep_attempts(self._setup.store))
        if swept:
            self._display.note(f"removed what {len(swept)} interrupted stage(s) had left behind")

    def _announce(self, record: "_Record", known: Known) -> None:
        if self._announced != record.name:
            self._display.note(record.announcement)
            self._announced = record.name
        for name, loss in known.unreadable.items():
            self._display.note(f"{name} is made again: {loss.message}")


class _Record:
    """What of the run's record stays the same while stages come to their ends."""

    def __init__(
        self, setup: Setup, stages: Sequence[Stage], facts: RunFacts, taken: Taken, decisions: tuple[str, ...]
    ) -> None:
        self.name = taken.name
        self.stages = stages
        self._not_planned = setup.plan.not_planned
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

    def done_before(self, stage: str, key: Sha256) -> StageState | None:
        """The stage as an earlier part of this run left it, if that measured this very result."""
        earlier = self._done.get(stage)
        return earlier if earlier is not None and (earlier.status, earlier.key) == (StageStatus.DONE, key) else None

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
            not_planned=self._not_planned,
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


def ended(state: StageState, finished: Finished) -> StageState:
    """A stage that has come to its end."""
    outcome = finished.outcome
    if isinstance(outcome, StageRecord):
        status = StageStatus.CACHED if finished.cached else StageStatus.DONE
        return state.reached(status, key=finished.key, wall_seconds=outcome.provenance.wall_seconds)
    status = StageStatus.UNSUPPORTED if outcome.kind is FailureKind.UNSUPPORTED else StageStatus.FAILED
    return state.reached(status, key=finished.key, failure=outcome, wall_seconds=finished.wall_seconds)


class _Work:
    """What a run does to its stages. `states` changes as they end; every change is noted before it is shown."""

    def __init__(
        self,
        record: _Record,
        known: Known,
        workshop: Workshop,
        display: Display,
        keep: KeepCheckpoints,
        footprints: Mapping[str, Footprint],
        waits_for_room: bool,
    ) -> None:
        self._record = record
        self._known = known
        self._workshop = workshop
        self._display = display
        self._states = {stage.id: StageState.planned(stage) for stage in record.stages}
        self._artifacts: dict[str, Sha256] = {}
        self._found_elsewhere: Counter[str] = Counter()
        known_here = (one for one in record.stages if one.id in known.records)
        before = [one for one in known_here if record.done_before(one.id, known.keys[one.id])]
        self._keeper = Keeper(Readers(known.missing, keep, before), workshop.store.artifacts, workshop.note)
        self._room = Room(
            workshop.store.root,
            known.missing,
            footprints,
            droppable((*known.missing, *before), keep),
            workshop.cancel,
            workshop.note,
            waits=waits_for_room,
            ways=partial(ways_of_cleaning, workshop.store),
        )

    def perform(self, executor: Executor, *, ends: bool) -> RunRecord:
        """Run what is missing, to the end. Raises as `Run.perform` does."""
        known = self._known
        self._display.begin(len(self._states))
        try:
            adopted = self._adopt()
            self._keeper.begin()
            with self._workshop.store.runs.journal(self._record_now()) as note:
                for stage, state in adopted.items():
                    self._display.finished(stage, state)
                work, skip = partial(self._work, note), partial(self._skip, note)
                executor.run(known.missing, work, skip, done=known.records.keys(), room=self._room)
            return self._room.patiently(partial(self._save, ended=ends))
        except (KeyboardInterrupt, Interrupted) as stopped:
            self._workshop.cancel.set()
            with suppress(DiskFull):  # the journal has it all
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
            self._keeper.close()
            self._display.end()

    def _adopt(self) -> dict[str, StageState]:
        """Fill in every stage whose result stands already. What this very run had done before stays its own.

        Returns how each of them is shown.
        """
        shown = {}
        for stage, record in self._known.records.items():
            key = self._known.keys[stage]
            shown[stage] = self._states[stage] = self._settled(stage, Finished(key, record, cached=True))
            if earlier := self._record.done_before(stage, key):
                self._states[stage] = shown[stage].reached(StageStatus.DONE, started=earlier.started)
        return shown

    def _work(self, note: Note, stage: Stage, perform: Perform) -> End:
        def on_start(key: Sha256) -> None:
            started = self._states[stage.id].reached(StageStatus.RUNNING, key=key, started=now())
            self._keep(note, stage.id, started)
            self._display.started(stage.id)

        def on_event(event: Event) -> None:
            self._display.event(stage.id, event)

        inputs = inputs_of(stage, self._artifacts)
        try:
            finished = self._dropped_elsewhere(stage, inputs)
            finished = finished or perform(stage, inputs, self._workshop, on_start, on_event)
        except DiskFull as full:
            if not self._room.waits:
                raise
            self._workshop.note(f"{stage.id} is done again when there is room: {full.message}")
            return End.NO_ROOM
        if finished is None:
            self._found_elsewhere[stage.id] += 1
            if self._found_elsewhere[stage.id] == _TIMES_BEFORE_A_NOTE:
                self._workshop.note(f"{stage.id}: another orchestrator is at this very stage, and its result is taken")
            return End.ELSEWHERE
        state = self._settled(stage.id, finished)
        self._room.patiently(partial(self._keep, note, stage.id, state))
        self._display.finished(stage.id, state)
        self._keeper.end(stage.id)
        return End.RESULT if isinstance(finished.outcome, StageRecord) else End.NO_RESULT

    def _dropped_elsewhere(self, stage: Stage, inputs: dict[str, Sha256]) -> Finished | None:
        """The stage's end where another orchestrator has made its artifact, had all read it that would, and dropped it.

        None where it has to be run, or its artifact is there.
        """
        if not stage.makes_artifact:
            return None
        key = self._workshop.key_of(stage, inputs)
        stored = self._workshop.read(key)
        if stored is None or self._workshop.store.has_artifact(stored):
            return None
        again = look_up(with_readers(stage, self._record.stages), self._workshop.store, self._workshop.key_of)
        known = again.records.get(stage.id)
        return None if known is None else Finished(key, known, cached=True)

    def _skip(self, note: Note, stage: Stage, cause: str) -> None:
        failure = Failure(kind=FailureKind.BLOCKED, message=f"needs {cause}, which has no result")
        state = self._states[stage.id].reached(StageStatus.BLOCKED, failure=failure)
        self._room.patiently(partial(self._keep, note, stage.id, state))
        self._display.finished(stage.id, state)
        self._keeper.end(stage.id)

    def _settled(self, stage: str, finished: Finished) -> StageState:
        outcome = finished.outcome
        if isinstance(outcome, StageRecord) and outcome.provenance.artifact is not None:
            self._artifacts[stage] = outcome.provenance.artifact
            self._keeper.made(stage, outcome.provenance.artifact)
        return ended(self._states[stage], finished)

    def _keep(self, note: Note, stage: str, state: StageState) -> None:
        self._states[stage] = state
        note(stage, state, self._workshop.verifier.damages)

    def _save(self, *, interrupted: bool = False, ended: bool = False) -> RunRecord:
        if interrupted:
            self._states = {
                name: state.reached(StageStatus.INTERRUPTED) if state.status is StageStatus.RUNNING else state
                for name, state in self._states.items()
            }
        record = self._record_now(interrupted=interrupted, ended=ended)
        self._workshop.store.runs.save(record)
        return record

    def _record_now(self, *, interrupted: bool = False, ended: bool = False) -> RunRecord:
        damages = self._workshop.verifier.damages
        return self._record.at(dict(self._states), damages, interrupted=interrupted, ended=ended)
