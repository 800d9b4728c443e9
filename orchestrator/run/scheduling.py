"""When each stage runs. On this host: one lane for each device, and lanes beside them for what needs none."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol

from harness.contract import Operation
from orchestrator.stages import Stage

_FETCH_LANES = 2

Work = Callable[[Stage], bool]
"""Brings one stage to its end; False when it has no result, so that what needs it cannot run."""


class Executor(Protocol):
    def run(
        self, stages: Sequence[Stage], work: Work, skip: Callable[[Stage, str], None], *, done: Collection[str] = ()
    ) -> None:
        """Call `work` once for each stage whose needs succeeded, and `skip(stage, cause)` for the others.

        A stage starts when none of those that stand in its `after` is waiting or at work any more.

        `done` names stages that succeeded before. `stages` come in an order in which each stands after what it needs.
        Raises whatever `work` raises, after the stages in flight have ended.
        """
        ...


class LocalExecutor:
    """Runs stages on threads, each of which waits for one worker. A device's stages run one after the other."""

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel = cancel

    def run(
        self, stages: Sequence[Stage], work: Work, skip: Callable[[Stage, str], None], *, done: Collection[str] = ()
    ) -> None:
        waiting = list(stages)
        succeeded = dict.fromkeys(done, True)
        running: dict[Future[bool], Stage] = {}
        with ThreadPoolExecutor(thread_name_prefix="stage") as pool:
            try:
                while waiting or running:
                    _skip_hopeless(waiting, succeeded, skip)
                    for stage in _startable(waiting, tuple(running.values()), succeeded):
                        waiting.remove(stage)
                        running[pool.submit(work, stage)] = stage
                    if running:
                        ended, _ = wait(running, return_when=FIRST_COMPLETED)
                        for future in ended:
                            succeeded[running.pop(future).id] = future.result()
            except BaseException:
                self._cancel.set()
                raise


def _skip_hopeless(waiting: list[Stage], succeeded: dict[str, bool], skip: Callable[[Stage, str], None]) -> None:
    for stage in list(waiting):
        cause = next((need for need in stage.needs if succeeded.get(need) is False), None)
        if cause is not None:
            waiting.remove(stage)
            succeeded[stage.id] = False
            skip(stage, cause)


def _startable(waiting: list[Stage], running: Sequence[Stage], succeeded: dict[str, bool]) -> list[Stage]:
    busy = Counter(lane for stage in running for lane in _lanes(stage))
    unfinished = {stage.id for stage in (*waiting, *running)}
    chosen = []
    for stage in waiting:
        lanes = _lanes(stage)
        free = all(busy[lane] < (_FETCH_LANES if lane == Operation.FETCH.value else 1) for lane in lanes)
        if free and all(succeeded.get(need) for need in stage.needs) and unfinished.isdisjoint(stage.after):
            busy.update(lanes)
            chosen.append(stage)
    return chosen


def _lanes(stage: Stage) -> tuple[str, ...]:
    """A stage on several devices takes all their lanes."""
    return (Operation.FETCH.value,) if stage.operation is Operation.FETCH else stage.device_names
