"""What a run does to its stages, one by one, and its record, which follows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from harness.contract import Event, Sha256
from orchestrator.errors import DiskFull, HostFault, Interrupted
from orchestrator.host.faults import explained
from orchestrator.manifest import KeepCheckpoints, Manifest
from orchestrator.run.execution import Finished, Perform
from orchestrator.run.keeping import Keeper, Readers, droppable, passing_before
from orchestrator.run.known import Known, inputs_of, look_up, with_readers
from orchestrator.run.progress import Display
from orchestrator.run.room import Room, ways_of_cleaning
from orchestrator.run.scheduling import End, Executor
from orchestrator.run.sizes import Footprint
from orchestrator.run.workshop import Workshop
from orchestrator.stages import Plan, Stage
from orchestrator.store import Failure, FailureKind, RunFacts, RunRecord, StageRecord, StageState, StageStatus, now
from orchestrator.store.history import Taken
from orchestrator.store.runs import Note

_TIMES_BEFORE_A_NOTE = 5
"""A short wait for another orchestrator is worth none."""


class RecordInProgress:
    """What of the run's record stays the same while stages come to their ends."""

    def __init__(
        self,
        manifest: Manifest,
        plan: Plan,
        stages: Sequence[Stage],
        facts: RunFacts,
        taken: Taken,
        decisions: tuple[str, ...],
    ) -> None:
        self.name = taken.name
        self.stages = stages
        self._not_planned = plan.not_planned
        self._facts = facts
        self._taken = taken
        self._manifest = manifest.model_dump(mode="json")
        earlier = taken.earlier
        self._created = now() if earlier is None else earlier.created
        self._done = {} if earlier is None else earlier.stages
        before = () if earlier is None else earlier.decisions
        self._decisions = tuple(dict.fromkeys((*before, *decisions, *_other_commit(earlier, facts))))

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


class StageWork:
    """What a run does to its stages. `states` changes as they end; every change is noted before it is shown."""

    def __init__(
        self,
        record: RecordInProgress,
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
        self._before = before = self._what_passes(keep)
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

    def _what_passes(self, keep: KeepCheckpoints) -> list[Stage]:
        """Those whose output was there before, and goes."""
        known, record = self._known, self._record
        mine = {name for name, key in known.keys.items() if record.done_before(name, key)}
        return passing_before(record.stages, known, mine, keep, self._workshop.store, record.name)

    def _adopt(self) -> dict[str, StageState]:
        """Fill in every stage whose result stands already. What this very run had done before stays its own.

        Returns how each of them is shown.
        """
        shown = {}
        for one in self._before:
            if digest := self._known.records[one.id].provenance.artifact:
                self._workshop.store.artifacts.mark_passing(digest)
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
        state = self._room.patiently(partial(self._settled, stage.id, finished))
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
            with explained():
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
