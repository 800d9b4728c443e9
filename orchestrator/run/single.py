"""One stage of a plan by itself, for schedulers that start each stage as a job of theirs.

Everything that a run does for a stage is done here, too, but for the run's record: that is made by a run of the whole
manifest, before or afterwards, which finds the result in the store.
"""

import threading

from harness.contract import Event, Sha256, unknown
from orchestrator.errors import BadManifest, StoreError
from orchestrator.host.faults import explained
from orchestrator.manifest import KeepCheckpoints
from orchestrator.run.execution import Finished, Perform
from orchestrator.run.known import Known, inputs_of, look_up
from orchestrator.run.preview import look_ahead
from orchestrator.run.progress import Display
from orchestrator.run.run import Setup
from orchestrator.run.scheduling import End, LocalExecutor
from orchestrator.run.space import check_space, disk_need
from orchestrator.run.work import ended
from orchestrator.run.workshop import Workshop
from orchestrator.stages import Plan, Stage
from orchestrator.store import StageState
from orchestrator.store.cleaning import sweep_attempts

_KEY_DIGITS = 64
_MOST_NAMES = 3


def find_stage(setup: Setup, wanted: str) -> Stage:
    """The stage of the plan with this id, or with this key where that is known already.

    Raises:
        BadManifest: the plan has none.
    """
    stages = {stage.id: stage for stage in setup.plan.stages}
    if wanted in stages:
        return stages[wanted]
    if len(wanted) == _KEY_DIGITS and "/" not in wanted:
        keys = look_ahead(setup).keys
        found = next((name for name, key in keys.items() if key == wanted), None)
        if found is not None:
            return stages[found]
        raise BadManifest(
            f"no stage of the plan has the key {wanted} now",
            hint="a key is known when the stage's image is built and its inputs exist; the id is known always",
        )
    raise BadManifest(
        unknown("stage of this plan", wanted, stages), hint="`orchestrator plan MANIFEST --jsonl` has the id of each"
    )


def run_one(setup: Setup, stage: Stage, display: Display, cancel: threading.Event) -> StageState:
    """Bring one stage to its end, unless its result stands already. Where another is at it, its result is waited for.

    Raises:
        StoreError: what the stage needs has no result, or the disk has no room.
        Interrupted: `cancel` was set.
        HostFault: the disk is full or read-only, or the store is gone.
        OrchestratorError: an image cannot be made ready, or the store cannot be written.
    """
    workshop = Workshop(
        store=setup.store,
        catalog=setup.catalog,
        runtime=setup.runtime,
        device_model=setup.device.model,
        run=setup.manifest.name,
        cancel=cancel,
        note=display.note,
    )
    with explained(), setup.store.in_use():
        setup.runtime.sweep()
        sweep_attempts(setup.store)
        stages = _with_what_it_needs(setup.plan, stage)
        known = look_up(stages, setup.store, workshop.key_of, workshop.is_whole)
        if stage.id in known.records:
            found = Finished(known.keys[stage.id], known.records[stage.id], cached=True)
            return ended(StageState.planned(stage), found)
        _refuse_what_is_lacking(stage, known)
        need = disk_need(setup.plan.stages, known, setup.weights_bytes, setup.catalog, KeepCheckpoints.ALL)
        for note in check_space(setup.store.root, need):
            display.note(note)
        workshop.refused = known.refused
        return _perform(stage, known, workshop, display)


def _perform(stage: Stage, known: Known, workshop: Workshop, display: Display) -> StageState:
    state = StageState.planned(stage)

    def on_start(key: Sha256) -> None:
        display.started(stage.id)

    def on_event(event: Event) -> None:
        display.event(stage.id, event)

    def work(started: Stage, perform: Perform) -> End:
        nonlocal state
        finished = perform(started, inputs_of(started, known.artifacts), workshop, on_start, on_event)
        if finished is None:
            return End.ELSEWHERE
        state = ended(state, finished)
        display.finished(stage.id, state)
        return End.RESULT if state.has_result else End.NO_RESULT

    display.begin(1)
    try:
        LocalExecutor(workshop.cancel).run([stage], work, lambda skipped, cause: None, done=known.records.keys())
    finally:
        display.end()
    return state


def _with_what_it_needs(plan: Plan, stage: Stage) -> list[Stage]:
    """The stage and all whose results it hangs on, in the order of the plan."""
    wanted = {stage.id}
    found = []
    for one in reversed(plan.stages):
        if one.id in wanted:
            wanted.update(one.needs)
            found.append(one)
    return found[::-1]


def _refuse_what_is_lacking(stage: Stage, known: Known) -> None:
    lacking = [one.id for one in known.missing if one.id != stage.id]
    if lacking:
        more = f" and {len(lacking) - _MOST_NAMES} more" if len(lacking) > _MOST_NAMES else ""
        names = f"{', '.join(lacking[:_MOST_NAMES])}{more}"
        raise StoreError(
            f"{stage.id} needs what has no result, or whose output is gone: {names}",
            hint="run that first; `orchestrator plan MANIFEST --jsonl` has what each stage needs",
        )
