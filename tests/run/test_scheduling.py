"""Which stage starts when, on which device: the longest path first, nothing waits for what it does not need."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from harness.contract import Device, DeviceKind, FetchParameters, Operation, ProfileParameters, TextFile
from orchestrator.errors import Interrupted
from orchestrator.host import locks
from orchestrator.host.devices import ChosenDevice
from orchestrator.installation import find_manifest
from orchestrator.manifest import Manifest, read_manifest
from orchestrator.plan import build_plan
from orchestrator.run import resources
from orchestrator.run.execution import Perform
from orchestrator.run.expected import expected_seconds
from orchestrator.run.queue import Queue
from orchestrator.run.run import Setup
from orchestrator.run.scheduling import End, LocalExecutor
from orchestrator.stages import Stage, StageOutput
from orchestrator.store import StageStatus, Store
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import CATALOG, MANIFEST, Bench
from tests.support.stage_workers import honest_worker
from tests.support.virtual_time import assumed_seconds, least_seconds, simulate

EIGHT = Device(kind=DeviceKind.CUDA, uuids=tuple(f"GPU-{number}" for number in range(8)))
TWO = Device(kind=DeviceKind.CUDA, uuids=("GPU-0", "GPU-1"))


@pytest.fixture(autouse=True)
def _locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "device_lock_path", lambda name: tmp_path / "locks" / f"device-{name}.lock")


def stage(name: str, *needs: str, device: Device = TWO, **facts: object) -> Stage:
    inputs = {need: StageOutput(need) for need in needs}
    made = Stage(name, "image", Operation.PROFILE, ProfileParameters(), inputs=inputs, device=device)
    return replace(made, **facts)  # type: ignore[arg-type]


def fetch(name: str) -> Stage:
    source = TextFile(file=f"{name}.txt", sha256="0" * 64)
    return Stage(name, "image", Operation.FETCH, FetchParameters(source=source))


class Done:
    """Does nothing, and remembers on which devices."""

    def __init__(self, ends: Mapping[str, End] | None = None) -> None:
        self.ends = ends or {}
        self.worked: list[Stage] = []
        self.skipped: list[tuple[str, str]] = []

    def work(self, stage: Stage, perform: Perform) -> End:
        self.worked.append(stage)
        return self.ends.get(stage.id, End.RESULT)

    def skip(self, stage: Stage, cause: str) -> None:
        self.skipped.append((stage.id, cause))

    def run(self, *stages: Stage, seconds: Mapping[str, float] | None = None, done: tuple[str, ...] = ()) -> list[str]:
        LocalExecutor(threading.Event(), seconds).run(stages, self.work, self.skip, done=done)
        return [one.id for one in self.worked]


def the_papers_generalization(tmp_path: Path) -> Setup:
    manifest = read_manifest(find_manifest(Path("paper-generalization")))
    plan = build_plan(manifest, CATALOG, EIGHT, None)
    device = ChosenDevice(EIGHT, "NVIDIA H200", "8 of them")
    return Setup(manifest, plan, CATALOG, Store(tmp_path / "store"), FakeRuntime(honest_worker), device, ())


def test_the_papers_generalization_ends_on_eight_gpus_when_its_longest_path_does(tmp_path: Path) -> None:
    """By what a run expects without having measured any of it, which knows nothing of slow methods, too."""
    setup = the_papers_generalization(tmp_path)
    stages = setup.plan.stages
    seconds = assumed_seconds(stages, {model.name: model.parameters for model in setup.manifest.models})
    least = least_seconds(stages, seconds, devices=8)
    for expected in (seconds, expected_seconds(setup, stages)):
        found = simulate(stages, seconds, expected)
        assert len(found.order) == len(stages)
        assert least <= found.seconds < 1.1 * least
    one = replace(setup, plan=build_plan(setup.manifest, CATALOG, Device(kind=DeviceKind.CUDA, uuids=("GPU-0",)), None))
    assert simulate(one.plan.stages, seconds).seconds > 5 * least


def test_any_free_device_serves_any_stage(tmp_path: Path) -> None:
    setup = the_papers_generalization(tmp_path)
    seconds = assumed_seconds(setup.plan.stages, {model.name: model.parameters for model in setup.manifest.models})
    served: dict[Operation, set[str]] = {}
    for started in simulate(setup.plan.stages, seconds, seconds).order:
        if started.operation not in (Operation.FETCH, Operation.EXPORT):
            assert len(started.device.uuids) == 1
            served.setdefault(started.operation, set()).update(started.device.uuids)
    assert served.keys() == {Operation.COMPRESS, Operation.EVALUATE}
    assert all(len(gpus) > 5 for gpus in served.values())


def test_with_several_devices_what_most_hangs_on_comes_first_and_with_one_the_plan_does() -> None:
    stages = (stage("short"), stage("long"), stage("path"), stage("end", "path"))
    seconds = {"short": 1.0, "long": 5.0, "path": 3.0, "end": 3.0}
    queue = Queue(stages, (), seconds)
    (demand,) = queue.demands()
    assert [queue.take(demand).id for _ in range(3)] == ["path", "long", "short"]
    one = Device(kind=DeviceKind.CUDA, uuids=("GPU-0",))
    alone = [replace(each, device=one) for each in stages]
    assert Done().run(*alone, seconds=seconds) == ["short", "long", "path", "end"]


def test_what_has_no_result_takes_with_it_what_needs_it_and_nothing_else() -> None:
    done = Done({"b": End.NO_RESULT})
    stages = (fetch("a"), stage("b", "a"), stage("c", "b"), stage("d", "b", "c"), stage("e", "a", after=("d",)))
    assert done.run(*stages) == ["a", "b", "e"]
    assert done.skipped == [("c", "b"), ("d", "b")]


def test_what_was_done_before_is_not_waited_for_and_what_nothing_makes_is_refused() -> None:
    assert Done().run(stage("c", "a", after=("b",)), done=("a",)) == ["c"]
    with pytest.raises(ValueError, match="c needs a, which nothing makes"):
        Done().run(stage("c", "a"))


def test_a_queue_costs_what_follows_from_an_end_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: how often a stage's needs are looked at does not grow with how many wait."""
    looked = 0
    real = Stage.needs.fget
    assert real is not None

    def counting(self: Stage) -> tuple[str, ...]:
        nonlocal looked
        looked += 1
        return real(self)

    monkeypatch.setattr(Stage, "needs", property(counting))
    for count in (10, 200):
        looked = 0
        stages = [
            fetch("a"),
            *(stage(f"s{number}", "a" if number == 0 else f"s{number - 1}") for number in range(count)),
        ]
        assert len(Done().run(*stages)) == count + 1
        assert looked <= 2 * len(stages)


def test_a_stage_at_work_elsewhere_is_put_aside_and_another_taken() -> None:
    ends = {"a": End.ELSEWHERE}

    class Elsewhere(Done):
        def work(self, stage: Stage, perform: Perform) -> End:
            if stage.id == "c":
                ends["a"] = End.RESULT
            return super().work(stage, perform)

    one = Device(kind=DeviceKind.CUDA, uuids=("GPU-0",))
    stages = [stage("a", device=one), stage("b", device=one), stage("c", device=one), stage("d", "a", device=one)]
    order = Elsewhere(ends).run(*stages)
    assert order[:2] == ["a", "b"]
    assert order[-2:] == ["a", "d"]
    assert order.count("b") == order.count("c") == order.count("d") == 1


def test_who_has_nothing_but_what_is_at_work_elsewhere_can_be_stopped() -> None:
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    with pytest.raises(Interrupted):
        LocalExecutor(cancel).run([stage("a")], lambda *_: End.ELSEWHERE, lambda *_: None)


def test_what_needs_several_devices_is_not_overtaken_by_what_needs_one() -> None:
    stages = [stage("first"), stage("both", device_count=2), stage("last")]
    seconds = {"first": 3.0, "both": 2.0, "last": 1.0}
    found = simulate(stages, seconds, seconds)
    assert [(one.id, one.device.uuids) for one in found.order] == [
        ("first", ("GPU-0",)),
        ("both", ("GPU-0", "GPU-1")),
        ("last", ("GPU-0",)),
    ]


def test_a_stage_that_wants_its_host_alone_runs_with_nothing_beside_it() -> None:
    stages = [stage("a"), stage("t", timed=True, host_alone=True), stage("u", timed=True, host_alone=True), stage("b")]
    at_work: set[str] = set()
    beside: dict[str, set[str]] = {}
    lock = threading.Lock()

    def work(started: Stage, perform: Perform) -> End:
        with lock:
            at_work.add(started.id)
            for one in at_work:
                beside.setdefault(one, set()).update(at_work)
        threading.Event().wait(0.02)
        with lock:
            at_work.remove(started.id)
        return End.RESULT

    LocalExecutor(threading.Event(), {one.id: 1.0 for one in stages}).run(stages, work, lambda *_: None)
    assert beside["t"] == {"t"}
    assert beside["u"] == {"u"}
    assert beside["a"] == {"a", "b"}


def test_a_measurement_in_rounds_stays_on_the_device_of_the_one_before_it() -> None:
    stages = [stage("r0"), stage("r1", timed=True), stage("r2", timed=True, after=("r1",)), stage("x", "r1")]
    seconds = {"r0": 2.0, "r1": 3.0, "r2": 1.0, "x": 9.0}
    found = {one.id: one.device.uuids for one in simulate(stages, seconds, seconds).order}
    assert found["r1"] == ("GPU-0",)
    many = [*stages[:3], *(stage(f"y{number}") for number in range(2))]
    seconds |= {"y0": 0.5, "y1": 0.5}
    assert {one.id: one.device.uuids for one in simulate(many, seconds).order}["r2"] == ("GPU-1",)


def test_a_device_that_somebody_else_computes_on_is_taken_last(bench: Bench) -> None:
    with locks.attempt(resources.device_lock_path("GPU-0"), shared=True):
        done = Done()
        done.run(stage("a"))
    assert done.worked[0].device.uuids == ("GPU-1",)


@pytest.mark.parametrize("alone", [False, True])
def test_a_timed_stage_holds_its_device_alone_and_on_request_its_host(bench: Bench, alone: bool) -> None:
    held: dict[str, tuple[bool, bool]] = {}

    def looking(request, output):
        def is_free(name: str) -> bool:
            with locks.attempt(resources.device_lock_path(name), shared=True) as taken:
                return taken

        held[request.id] = is_free("host"), is_free("cpu")
        return honest_worker(request, output)

    assert bench.run(FakeRuntime(looking), {**MANIFEST, "exclusive_host": alone}).complete
    assert held["compress/tiny/sparsegpt-50%"] == (not alone, False)
    assert held["evaluate/tiny/dense/arc_easy"] == (True, True)


def test_asking_for_the_host_alone_is_no_other_run_and_measures_nothing_again(bench: Bench) -> None:
    bench.run(FakeRuntime(honest_worker))
    again = FakeRuntime(honest_worker)
    assert bench.run(again, {**MANIFEST, "exclusive_host": True}).complete
    assert again.requests == []
    asked = [Manifest.model_validate({**MANIFEST, "exclusive_host": alone}) for alone in (False, True)]
    assert asked[0].digest == asked[1].digest


def test_two_orchestrators_share_a_run_and_make_nothing_twice(bench: Bench) -> None:
    """Each stage of the one waits until the other has begun one, so that both must be at work at once."""
    begun = [threading.Event(), threading.Event()]
    ran: list[list[str]] = [[], []]
    records = [None, None]

    def orchestrate(which: int) -> None:
        def worker(request, output):
            begun[which].set()
            assert begun[1 - which].wait(timeout=60)
            ran[which].append(request.id)
            return honest_worker(request, output)

        records[which] = bench.run(FakeRuntime(worker))  # type: ignore[call-overload]

    both = [threading.Thread(target=orchestrate, args=(which,)) for which in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    planned = [one.id for one in bench.setup(FakeRuntime(honest_worker)).plan.stages]
    assert sorted(ran[0] + ran[1]) == sorted(planned)
    assert all(ran)
    for record, own in zip(records, ran, strict=True):
        assert record is not None
        assert record.complete
        assert {name for name, one in record.stages.items() if one.status is StageStatus.DONE} == set(own)
