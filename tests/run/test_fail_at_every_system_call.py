"""A disk that fails at any system call of a run ends it with one sentence; nothing is lost, and the run goes on."""

import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import CommandExit, HostFault, StoreError
from orchestrator.host.owner import Owner
from orchestrator.store import RunRecord, Store
from orchestrator.store.history import all_runs
from tests.run.test_kill_at_every_system_call import SMALL, finished
from tests.support.disk_calls import Call, DiskCalls, FailingDisk
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import Bench
from tests.support.stage_workers import keeping_worker

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The runs that fail are those of an orchestrator that is dead by the next one."""
    place = tmp_path_factory.mktemp("failing")
    with pytest.MonkeyPatch.context() as patch:
        gone = Owner.current().model_copy(update={"start_ticks": -1})
        patch.setattr(Owner, "current", classmethod(lambda cls: gone))
        patch.setattr("orchestrator.run.resources.device_lock_path", lambda name: place / f"device-{name}.lock")
        yield place


@pytest.fixture(scope="module")
def healthy(place: Path) -> tuple[list[Call], Mapping[str, Any]]:
    """The calls of a run on a disk that does not fail, and what it finds."""
    bench = Bench(place / "healthy")
    disk = DiskCalls(bench.store.root, None)
    with disk.watch():
        record = bench.run(FakeRuntime(keeping_worker), SMALL)
    return disk.calls, results(bench.store, record)


def results(store: Store, record: RunRecord) -> dict[str, Any]:
    """All that the stages found, by their names."""
    assert record.complete
    stored = {name: store.read(state.key or "") for name, state in record.stages.items()}
    return {name: one.final.result.model_dump(mode="json") for name, one in stored.items() if one is not None}


@pytest.mark.parametrize("turn", range(len(ERRORS)))
def test_a_run_ends_with_a_sentence_and_goes_on_to_the_same_results(
    place: Path, healthy: tuple[list[Call], Mapping[str, Any]], turn: int
) -> None:
    """Each error at every third call, and all three at all of them together."""
    calls, expected = healthy
    assert len(expected) == len(calls and expected) > 2
    ended = 0
    for number in range(turn, len(calls) + 2, len(ERRORS)):
        error = ERRORS[(number + turn) % len(ERRORS)]
        bench = Bench(place / f"{turn}-{number}")
        disk = FailingDisk(bench.store.root, None, first=number, error=error)
        try:
            with disk.watch():
                bench.run(FakeRuntime(keeping_worker), SMALL)
        except StoreError as fault:
            assert fault.hint
            assert isinstance(fault, HostFault) or "the store" in fault.message
            assert (fault.exit_status is CommandExit.INCOMPLETE) == isinstance(fault, HostFault)
            ended += 1
        else:
            assert error == errno.EIO or disk.failed == [], (number, disk.failed)
        kept = finished(bench.store)
        assert all_runs(bench.store)[1] == ()
        runtime = FakeRuntime(keeping_worker)
        record = bench.run(runtime, SMALL)
        assert results(bench.store, record) == expected, (number, disk.failed)
        assert len(runtime.requests) == len(record.stages) - len(kept), (number, disk.failed)
        assert list(bench.store.attempts.iterdir()) == []
    assert ended > len(calls) / len(ERRORS) / 3  # the other faults meet calls whose failure loses nothing
