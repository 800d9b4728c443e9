"""A device that another orchestrator uses is waited for, and the one who waits is told why."""

import threading

import pytest

from harness.contract import Device
from orchestrator.errors import Interrupted
from orchestrator.host import locks
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.run import resources
from orchestrator.stages import Stage
from tests.support.small_runs import MANIFEST, Bench

EVALUATION, TIMING = "evaluate/tiny/dense/arc_easy", "benchmark/tiny/dense/transformers"


def stage_of(bench: Bench, identity: str) -> Stage:
    return build_plan(Manifest.model_validate(MANIFEST), bench.catalog, Device(threads=1), None).stage(identity)


@pytest.mark.parametrize(
    ("identity", "held_shared", "words"),
    [
        (TIMING, True, "it is timed, and something else of yours computes there"),
        (TIMING, False, "it is timed, and something else of yours computes there"),
        (EVALUATION, False, "something of yours is being timed there"),
    ],
)
def test_who_waits_for_a_device_says_so_once_and_can_be_stopped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, identity: str, held_shared: bool, words: str
) -> None:
    monkeypatch.setattr(locks, "_QUIET_SECONDS", 0.0)
    said: list[str] = []
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    with locks.attempt(resources.device_lock_path("cpu"), shared=held_shared) as taken:
        assert taken
        with pytest.raises(Interrupted), resources.hold_devices(stage_of(bench, identity), cancel, said.append):
            raise AssertionError("the device was not free")
    assert said == [f"{identity}: waits until cpu is free: {words}"]


def test_a_timed_stage_that_waits_comes_before_untimed_ones_that_follow(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one evaluation after another elsewhere, the device is never free, but the queue is the timed stage's."""
    monkeypatch.setattr(locks, "_QUIET_SECONDS", 0.0)
    order: list[str] = []
    waits = threading.Event()

    def take(identity: str) -> None:
        with resources.hold_devices(stage_of(bench, identity), threading.Event(), lambda _: waits.set()):
            order.append(identity)

    timed = threading.Thread(target=take, args=(TIMING,))
    untimed = threading.Thread(target=take, args=(EVALUATION,))
    with locks.attempt(resources.device_lock_path("cpu"), shared=True):
        timed.start()
        assert waits.wait(30)
        untimed.start()
        untimed.join(0.5)
        assert untimed.is_alive()
    timed.join(30)
    untimed.join(30)
    assert order == [TIMING, EVALUATION]


def test_a_free_or_shared_device_is_taken_without_a_word(bench: Bench) -> None:
    said: list[str] = []
    with (
        locks.attempt(resources.device_lock_path("cpu"), shared=True),
        resources.hold_devices(stage_of(bench, EVALUATION), threading.Event(), said.append),
    ):
        pass
    with resources.hold_devices(stage_of(bench, TIMING), threading.Event(), said.append):
        assert not said
