"""A pytest plugin that runs the collected tests once as they are, and then, for each fault, those that reach it.

Each time in a fork of the process that collected them: nothing is imported twice, and no test sees what another left.
Where the faults are, where outcomes go and how long stands in the environment (`FAULTS`, `OUTCOMES`, `SECONDS_EACH`,
`UNTIL`).
"""

import ctypes
import gc
import importlib
import json
import os
import pickle
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol
from mutmut.mutation import trampoline

LONGEST_SECONDS = 20.0
"""Of processor time, beside ten times what the tests take without a fault: a loop that never ends is noticed."""
LONGEST_WAIT_SECONDS = 120.0
"""Beside a hundred times that, by the clock: so is a wait that never ends, and a busy machine is none."""
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2)

IN_CHILDREN = Path(__file__).parent / "in_children"


class Baseline:
    """One run without a fault: what each test takes of the processor, and which functions it reaches."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}
        self.reached: dict[str, set[int]] = defaultdict(set)
        self.unusable: list[str] = []
        self.modules: list[str] = []

    def run(self, items: list[pytest.Item]) -> None:
        hits: set[str] = set()
        shared: dict[str, set[str]] = defaultdict(set)
        trampoline.record_trampoline_hit = lambda name, caller=None: hits.add(name)
        trampoline.set_mutant_under_test("stats")
        in_children = Path(os.environ["OUTCOMES"]).with_suffix(".reached")
        os.environ["FAULTS_REACHED"] = str(in_children)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(IN_CHILDREN), os.environ.get("PYTHONPATH", "")]).rstrip(
            os.pathsep
        )
        known = set(sys.modules)
        for index, item in enumerate(items):
            hits.clear()
            in_children.unlink(missing_ok=True)
            start = _processor_seconds()
            reports = _reports(item, items[index + 1] if index + 1 < len(items) else None)
            if not all(report.passed for report in reports):
                self.unusable.append(f"{item.nodeid}: {[report.outcome for report in reports]}")
                continue
            self.seconds[index] = _processor_seconds() - start
            if in_children.exists():
                hits |= set(in_children.read_text("utf-8").splitlines())
            # What a fixture of the whole file did serves its later tests, too.
            shared[_file(item)] |= hits
            for name in hits:
                self.reached[name].add(index)
        for index in self.seconds:
            for name in shared[_file(items[index])]:
                self.reached[name].add(index)
        self.modules = [
            name for name in set(sys.modules) - known if not name.startswith(("harness", "orchestrator", "tests"))
        ]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    items = session.items
    faults = json.loads(Path(os.environ["FAULTS"]).read_text("utf-8"))
    kept = Path(os.environ["OUTCOMES"])
    baseline_file = kept.with_suffix(".baseline")

    def measure() -> int:
        baseline = Baseline()
        baseline.run(items)
        baseline_file.write_bytes(pickle.dumps(baseline.__dict__))
        return 0

    if _forked(measure, 3600.0) != 0:
        pytest.exit("the tests could not be run without a fault", 3)
    baseline = Baseline()
    baseline.__dict__.update(pickle.loads(baseline_file.read_bytes()))  # noqa: S301 - of our own fork
    for name in baseline.modules:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001, S112 - a module that a test made is not there any more
            continue
    gc.freeze()
    with kept.open("a", encoding="utf-8") as out:
        out.write(json.dumps({"tests": len(baseline.seconds), "unusable": baseline.unusable}) + "\n")
        for name, switch in faults:
            if time.time() > float(os.environ["UNTIL"]):
                break
            out.write(json.dumps({"name": name} | _outcome(switch, baseline, items)) + "\n")
            out.flush()
    return True


def _outcome(switch: str, baseline: Baseline, items: list[pytest.Item]) -> dict[str, object]:
    chosen = _chosen(baseline.reached.get(switch.rpartition("__mutmut_")[0], set()), baseline.seconds, items)
    if not chosen:
        return {"outcome": "not reached", "seconds": 0.0}
    start = _processor_seconds()
    expected = sum(baseline.seconds[index] for index in chosen)
    status = _forked(lambda: _first_failure(switch, [items[index] for index in chosen]), expected)
    outcome = {0: "not noticed", None: "timeout", -signal.SIGXCPU: "timeout"}.get(status, "noticed")
    return {"outcome": outcome, "seconds": round(_processor_seconds() - start, 2), "tests": len(chosen)}


def _chosen(reaching: set[int], seconds: dict[int, float], items: list[pytest.Item]) -> list[int]:
    """The cheapest tests that reach a fault, as many as the time allows; those of one file together."""
    left = float(os.environ["SECONDS_EACH"])
    chosen = []
    for index in sorted(reaching, key=lambda index: seconds[index]):
        left -= seconds[index]
        if chosen and left < 0:
            break
        chosen.append(index)
    of_file: dict[str, float] = defaultdict(float)
    for index in chosen:
        of_file[_file(items[index])] += seconds[index]
    return sorted(chosen, key=lambda index: (of_file[_file(items[index])], _file(items[index]), index))


def _first_failure(switch: str, items: list[pytest.Item]) -> int:
    trampoline.set_mutant_under_test(switch)
    for item, following in zip(items, [*items[1:], None], strict=True):
        if any(report.failed for report in _reports(item, following)):
            return 1
    return 0


def _reports(item: pytest.Item, following: pytest.Item | None) -> list[pytest.TestReport]:
    return runtestprotocol(item, log=False, nextitem=following)


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _processor_seconds() -> float:
    """Of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _forked(work: Callable[[], int], expected: float) -> int | None:
    """What `work` returns in a fork, a session of its own; None if it took far longer than `expected` seconds."""
    child = os.fork()
    if child == 0:
        os.setsid()
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)  # a wait that never ends is not left behind
        resource.setrlimit(resource.RLIMIT_CPU, (int(LONGEST_SECONDS + 10 * expected), resource.RLIM_INFINITY))
        try:
            status = work()
        except BaseException:  # noqa: BLE001 - whatever a fault does to pytest itself is noticed
            status = 2
        os._exit(status)
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS + 100 * expected
    try:
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        return None
    finally:
        _end_session(child)


def _end_session(leader: int) -> None:
    """End the fork, and what it started and left."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
    try:
        os.waitpid(leader, 0)
    except ChildProcessError:
        return
