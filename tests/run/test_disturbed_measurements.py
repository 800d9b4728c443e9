"""What else the machine does stands beside each result; what was measured in rounds meanwhile is measured once more."""

import pytest

from harness.contract import BenchmarkRequest
from orchestrator.host.load import LoadWatch, MachineLoad
from orchestrator.run import execution
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker

IN_ROUNDS = {**MANIFEST, "compress": [], "evaluate": None, "rounds": {"benchmark": 2, "profile": 2}}
QUIET = MachineLoad(load_average=0.1, pressure_fraction=0.1, steal_fraction=0.02)
BUSY = MachineLoad(load_average=9.0, pressure_fraction=0.11, steal_fraction=0.0)
STOLEN = MachineLoad(load_average=0.1, pressure_fraction=0.0, steal_fraction=0.03)


class Loads:
    """Gives each stage that is timed the next of the loads, and the others none."""

    def __init__(self, runtime, loads):
        self._runtime, self._loads = runtime, iter(loads)

    def __call__(self):
        return self

    def load(self):
        timed = isinstance(self._runtime.requests[-1], BenchmarkRequest)
        return next(self._loads) if timed else BUSY


def measure(bench, monkeypatch, loads, manifest=IN_ROUNDS):
    runtime = FakeRuntime(honest_worker)
    monkeypatch.setattr(execution, "LoadWatch", Loads(runtime, loads))
    record = bench.run(runtime, manifest)
    assert record.complete
    asked = [request.id for request in runtime.requests]
    found = {name: bench.store.read(state.key).provenance for name, state in record.stages.items()}
    return asked, {name.rpartition("/")[2]: one for name, one in found.items() if name.startswith("benchmark/")}, found


def benchmarks(asked):
    return [one.rpartition("/")[2] for one in asked if one.startswith("benchmark/")]


def test_what_else_the_machine_did_stands_beside_every_result(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, timed, found = measure(bench, monkeypatch, [QUIET] * 4)
    assert benchmarks(asked) == ["round-1", "round-1-again", "round-2", "round-2-again"]
    assert {one.load for one in timed.values()} == {QUIET}
    assert {one.load for name, one in found.items() if name.startswith("profile/")} == {BUSY}
    assert not any(one.repeated for one in found.values()), "a peak of memory does not hang on the load"


@pytest.mark.parametrize("disturbed", [BUSY, STOLEN])
def test_a_disturbed_measurement_is_taken_once_more(bench: Bench, monkeypatch, disturbed) -> None:
    asked, timed, _ = measure(bench, monkeypatch, [QUIET, disturbed, QUIET, QUIET, QUIET])
    assert benchmarks(asked) == ["round-1", "round-1-again", "round-1-again", "round-2", "round-2-again"]
    assert [name for name, one in timed.items() if one.repeated] == ["round-1-again"]
    assert {one.load for one in timed.values()} == {QUIET}


def test_on_a_machine_that_stays_busy_it_is_marked_and_no_other_repeat_is_tried_in_vain(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, timed, _ = measure(bench, monkeypatch, [BUSY, BUSY, BUSY, QUIET, BUSY, QUIET])
    assert benchmarks(asked) == ["round-1", "round-1", "round-1-again", "round-2", "round-2-again", "round-2-again"]
    assert [one.load for one in timed.values()] == [BUSY, BUSY, QUIET, QUIET]
    assert [one.repeated for one in timed.values()] == [True, False, False, True]
    assert timed["round-1"].load.disturbance == "tasks waited for a processor in 11% of the time"


def test_a_single_measurement_is_marked_and_not_repeated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    once = {**IN_ROUNDS, "rounds": {"benchmark": 1, "profile": 1}}
    asked, timed, _ = measure(bench, monkeypatch, [BUSY], once)
    assert benchmarks(asked) == ["transformers"]
    assert timed["transformers"].load == BUSY


def proc_of(folder, *, waited_microseconds, ticks):
    (folder / "pressure").mkdir(parents=True, exist_ok=True)
    lines = f"some avg10=1.00 avg60=1.00 avg300=1.00 total={waited_microseconds}\nfull avg10=0.00 total=7\n"
    (folder / "pressure" / "cpu").write_text(lines, encoding="ascii")
    (folder / "stat").write_text(f"cpu  {' '.join(map(str, ticks))} 50 60\ncpu0 1 2 3\n", encoding="ascii")
    return folder


def test_pressure_and_steal_are_shares_of_what_passed_meanwhile(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 104.0])
    monkeypatch.setattr("orchestrator.host.load.time.monotonic", lambda: next(clock))
    watch = LoadWatch(proc_of(tmp_path, waited_microseconds=5_000_000, ticks=(100, 0, 50, 800, 0, 0, 0, 10)))
    proc_of(tmp_path, waited_microseconds=6_000_000, ticks=(200, 0, 100, 1000, 0, 0, 0, 60))
    load = watch.load()
    assert load.pressure_fraction == pytest.approx(0.25)
    assert load.steal_fraction == pytest.approx(50 / 400)


def test_what_the_kernel_does_not_say_is_none_and_disturbs_nothing(tmp_path) -> None:
    load = LoadWatch(tmp_path).load()
    assert (load.pressure_fraction, load.steal_fraction, load.disturbance) == (None, None, None)
