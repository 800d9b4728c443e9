"""Several hosts, one queue: whole devices of one host, one timed stage a host at a time, what is lost is done again."""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pytest

from harness.contract import Device, DeviceKind, Operation, ProfileParameters
from orchestrator.errors import HostFault
from orchestrator.run.execution import Perform, execute
from orchestrator.run.lanes import Lanes, Placed
from orchestrator.run.queue import Queue
from orchestrator.run.scheduling import End, HostLost, QueueExecutor
from orchestrator.stages import Stage, StageOutput

TWO = Device(kind=DeviceKind.CUDA, uuids=("GPU-1", "GPU-2"))
HOSTS = {"a": ("GPU-1", "GPU-2", "fetch"), "b": ("GPU-1", "fetch")}


def stage(name: str, *needs: str, **facts: object) -> Stage:
    inputs = {need: StageOutput(need) for need in needs}
    made = Stage(name, "image", Operation.PROFILE, ProfileParameters(), inputs=inputs, device=TWO)
    return replace(made, **facts)  # type: ignore[arg-type]


def all_that_start(lanes: Lanes, queue: Queue) -> list[Placed]:
    started = []
    while (placed := lanes.next_of(queue)) is not None:
        started.append(placed)
    return started


def where(placed: Sequence[Placed]) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {one.stage.id: (one.host, one.stage.device.uuids) for one in placed}


def test_each_stage_gets_a_device_of_its_own_on_the_host_with_most_that_is_free() -> None:
    queue = Queue([stage(name) for name in "vwxyz"], ())
    started = all_that_start(Lanes(HOSTS), queue)
    assert where(started) == {"v": ("a", ("GPU-1",)), "w": ("a", ("GPU-2",)), "x": ("b", ("GPU-1",))}


def test_several_devices_are_of_one_host_and_are_kept_for_who_waits_for_them() -> None:
    lanes = Lanes(HOSTS)
    queue = Queue([stage("first"), stage("both", device_count=2), stage("last"), stage("later")], ())
    started = all_that_start(lanes, queue)
    assert where(started) == {"first": ("a", ("GPU-1",)), "last": ("b", ("GPU-1",))}
    lanes.leave(started[0])
    assert list(queue.end("first", succeeded=True)) == []
    assert where(all_that_start(lanes, queue)) == {"both": ("a", ("GPU-1", "GPU-2"))}


def test_a_host_times_one_stage_at_a_time_beside_others() -> None:
    timed = [stage(f"t{number}", timed=True) for number in range(3)]
    queue = Queue([*timed, stage("u")], ())
    lanes = Lanes(HOSTS, one_timed=True)
    started = all_that_start(lanes, queue)
    assert where(started) == {"t0": ("a", ("GPU-1",)), "t1": ("b", ("GPU-1",)), "u": ("a", ("GPU-2",))}
    lanes.leave(started[0])
    assert list(queue.end("t0", succeeded=True)) == []
    assert where(all_that_start(lanes, queue)) == {"t2": ("a", ("GPU-1",))}


def test_who_wants_a_host_alone_gets_one_while_others_work_on_another() -> None:
    queue = Queue([stage("u"), stage("alone", timed=True, host_alone=True), stage("v"), stage("w")], ())
    started = all_that_start(Lanes(HOSTS), queue)
    assert where(started) == {"alone": ("a", ("GPU-1",)), "u": ("b", ("GPU-1",))}


def test_a_measurement_in_rounds_stays_on_its_host() -> None:
    lanes = Lanes({"a": ("GPU-1",), "b": ("GPU-1", "GPU-2")})
    queue = Queue([stage("r1", timed=True), stage("r2", timed=True, after=("r1",)), stage("u")], ())
    first, beside = all_that_start(lanes, queue)
    assert (first.host, beside.host) == ("b", "a")
    lanes.leave(first)
    assert list(queue.end("r1", succeeded=True)) == []
    assert where(all_that_start(lanes, queue)) == {"r2": (first.host, first.stage.device.uuids)}


class Cluster:
    """Hosts that come and go: `losses` are taken away by the first stage that starts there."""

    most_stages = 8
    one_timed = True
    seconds_between_looks = 0.01

    def __init__(self, hosts: Mapping[str, Collection[str]], losses: Collection[str] = ()) -> None:
        self.hosts = dict(hosts)
        self.losses = set(losses)
        self.performed: list[tuple[str, str]] = []

    def there(self, stages: Sequence[Stage]) -> Mapping[str, Collection[str]]:
        if not self.hosts:
            raise HostFault("no host is left")
        return dict(self.hosts)

    def perform(self, host: str) -> Perform:
        def performed(stage, inputs, workshop, on_start, on_event):
            self.performed.append((stage.id, host))
            if host in self.losses:
                self.hosts.pop(host, None)
                raise HostLost(host)
            return execute

        return performed

    def is_idle(self, host: str, device: str) -> bool:
        return True


def work(stage: Stage, perform: Perform) -> End:
    perform(stage, {}, None, None, None)  # type: ignore[arg-type]
    return End.RESULT


def test_what_a_lost_host_was_at_is_done_again_elsewhere() -> None:
    cluster = Cluster(HOSTS, losses=("a",))
    stages = [stage("x"), stage("y"), stage("z", "x", "y")]
    QueueExecutor(threading.Event(), None, cluster).run(stages, work, lambda *_: None)
    assert {name for name, host in cluster.performed if host == "b"} == {"x", "y", "z"}
    assert [host for name, host in cluster.performed if name == "z"] == ["b"]


def test_where_no_host_is_left_the_run_ends_and_says_so() -> None:
    cancel = threading.Event()
    with pytest.raises(HostFault, match="no host is left"):
        QueueExecutor(cancel, None, Cluster(HOSTS, losses=HOSTS)).run([stage("x")], work, lambda *_: None)
    assert cancel.is_set()


def test_a_host_that_comes_later_does_its_share() -> None:
    cluster = Cluster({"b": ("GPU-1",)})
    at_once = threading.Barrier(2, timeout=20)

    def joining(stage: Stage, perform: Perform) -> End:
        cluster.hosts["a"] = ("GPU-1",)
        at_once.wait()
        return work(stage, perform)

    QueueExecutor(threading.Event(), None, cluster).run([stage("x"), stage("y")], joining, lambda *_: None)
    assert sorted(host for _, host in cluster.performed) == ["a", "b"]
