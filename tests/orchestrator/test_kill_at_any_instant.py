"""An orchestrator that is killed with SIGKILL, at any instant, loses at most the stages in flight."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from orchestrator.runtime.fake import FakeRuntime

from harness.contract import DESCRIPTOR_NAME, describe_tree
from orchestrator.store.cleaning import clean
from tests.orchestrator.conftest import Bench
from tests.orchestrator.workers import honest_worker

KILLS = 40
VICTIM = """
import sys, time
from pathlib import Path
from orchestrator.runtime.fake import FakeRuntime
from tests.orchestrator.conftest import Bench
from tests.orchestrator.workers import honest_worker

def slow_worker(request, output):
    result = honest_worker(request, output)
    time.sleep(0.02)
    return result

bench = Bench(Path(sys.argv[1]))
print("ready", flush=True)
bench.run(FakeRuntime(slow_worker))
"""
PROJECT = Path(__file__).parents[2]


def victim(store: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", VICTIM, str(store)], stdout=subprocess.PIPE, cwd=PROJECT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def check_whole(bench: Bench) -> int:
    """Every stage in the store can be read, and every artifact in it is what its name says."""
    stored = [bench.store.find(path.name) for path in bench.store.stages.iterdir()]
    assert None not in stored
    for record in stored:
        assert record is not None
        if record.artifact is not None:
            folder = bench.store.artifact(record.artifact.digest)
            assert describe_tree(folder, leave_out=frozenset({DESCRIPTOR_NAME})) == record.artifact.files
    return len(stored)


def test_killed_many_times_and_then_finished(bench: Bench) -> None:
    dice = random.Random(1)
    finished, stages = 0, 0
    for _ in range(KILLS):
        process = victim(bench.root)
        time.sleep(dice.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        finished += process.wait() == 0
        kept = check_whole(bench)
        assert kept >= stages
        stages = kept
    assert finished < KILLS, "no kill came before the end, so nothing was tested"
    record = bench.run(FakeRuntime(honest_worker))
    assert record.complete
    assert check_whole(bench) == len(record.stages)
    assert list(bench.store.attempts.iterdir()) == []
    assert clean(bench.store) == ()


def test_two_processes_on_one_store_end_with_one_set_of_results(bench: Bench) -> None:
    victims = [victim(bench.root) for _ in range(2)]
    assert [process.wait() for process in victims] == [0, 0]
    record = bench.store.load_run("last")
    assert record.complete
    assert check_whole(bench) == len(record.stages)
