"""An orchestrator that is killed with SIGKILL, at any instant, loses at most the stages in flight."""

import multiprocessing
import random
import time
from pathlib import Path

from harness.contract import DESCRIPTOR_NAME, WorkRequest, WorkResult, describe_tree
from orchestrator.store.cleaning import clean
from orchestrator.store.history import all_runs
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import Bench
from tests.support.stage_workers import honest_worker

KILLS = 40
_FORK = multiprocessing.get_context("fork")


def victim(bench: Bench) -> multiprocessing.process.BaseProcess:
    """An orchestrator in a process of its own, at work on the bench's store."""

    def slow_worker(request: WorkRequest, output: Path) -> WorkResult:
        result = honest_worker(request, output)
        time.sleep(0.01)
        return result

    process = _FORK.Process(target=lambda: bench.run(FakeRuntime(slow_worker)))
    process.start()
    return process


def check_whole(bench: Bench) -> int:
    """Every stage in the store can be read, and every artifact in it is what its name says."""
    stored = [bench.store.find(path.name) for path in bench.store.stages.glob("*")]
    assert None not in stored
    for record in stored:
        assert record is not None
        if record.artifact is not None:
            folder = bench.store.artifacts.path(record.artifact.digest)
            assert describe_tree(folder, leave_out=frozenset({DESCRIPTOR_NAME})) == record.artifact.files
    return len(stored)


def ended_runs(bench: Bench) -> dict[str, bytes]:
    """The records of the runs that came to their end, as they lie on the disk. Every record can be read."""
    runs, unreadable = all_runs(bench.store)
    assert unreadable == ()
    return {
        one.run: (bench.store.runs.folder / one.run / "run.json").read_bytes() for one in runs if one.ended is not None
    }


def test_killed_many_times_and_then_finished(bench: Bench) -> None:
    dice = random.Random(1)
    finished, stages = 0, 0
    ended: dict[str, bytes] = {}
    for _ in range(KILLS):
        process = victim(bench)
        time.sleep(dice.uniform(0, 0.15))
        process.kill()
        process.join()
        finished += process.exitcode == 0
        assert {name: content for name, content in ended_runs(bench).items() if name in ended} == ended
        ended = ended_runs(bench)
        kept = check_whole(bench)
        assert kept >= stages
        stages = kept
    assert finished < KILLS, "no kill came before the end, so nothing was tested"
    record = bench.run(FakeRuntime(honest_worker))
    assert record.complete
    assert check_whole(bench) == len(record.stages)
    assert list(bench.store.attempts.iterdir()) == []
    left = clean(bench.store)
    assert left.unreadable == ()
    assert all(one.what.startswith("runs/") for one in left.removed)
    assert clean(bench.store).removed == ()
    assert bench.store.runs.load("last") == record


def test_two_processes_on_one_store_end_with_one_set_of_results(bench: Bench) -> None:
    victims = [victim(bench) for _ in range(2)]
    for process in victims:
        process.join()
    assert [process.exitcode for process in victims] == [0, 0]
    record = bench.store.runs.load("last")
    assert record.complete
    assert check_whole(bench) == len(record.stages)
