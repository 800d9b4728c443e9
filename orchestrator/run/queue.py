"""Stages that wait for others, and those that are ready, the most urgent first: at the same cost in any plan.

A stage knows how many it waits for, and each knows who waits for it, so that an end costs what follows from it alone.
"""

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.contract import Operation
from orchestrator.stages import Stage


@dataclass(frozen=True)
class Demand:
    """What a stage takes while it runs: `count` of the devices with these `names`.

    `timed`: with nothing else on them; `alone`: with nothing else on their host.
    """

    names: tuple[str, ...]
    count: int = 1
    alone: bool = False
    timed: bool = False


@dataclass(order=True)
class _Ready:
    urgency: tuple[float, int]
    stage: Stage = field(compare=False)


class Queue:
    """`stages` come in an order in which each stands after what it needs; `done` succeeded before.

    Raises ValueError where one needs what is in neither.

    `seconds` are how long the stages will take, by their ids, as far as that is known: what the longest path hangs on
    comes first. Without them the order is that of `stages`.
    """

    def __init__(
        self, stages: Sequence[Stage], done: Collection[str], seconds: Mapping[str, float] | None = None
    ) -> None:
        self._stages = {stage.id: stage for stage in stages}
        self._place = {stage.id: place for place, stage in enumerate(stages)}
        self._remaining = {} if seconds is None else remaining_seconds(stages, seconds)
        self._needed_by: dict[str, list[str]] = {}
        self._after: dict[str, list[str]] = {}
        self._missing: dict[str, int] = {}
        self._ready: dict[Demand, list[_Ready]] = {}
        for stage in stages:
            needs = [need for need in stage.needs if need not in done]
            if lacking := [need for need in needs if need not in self._stages]:
                raise ValueError(f"{stage.id} needs {lacking[0]}, which nothing makes")
            after = [one for one in stage.after if one in self._stages]
            self._missing[stage.id] = len(needs) + len(after)
            for need in needs:
                self._needed_by.setdefault(need, []).append(stage.id)
            for one in after:
                self._after.setdefault(one, []).append(stage.id)
            if not needs and not after:
                self.put_back(stage)

    def __len__(self) -> int:
        """How many have not come to an end, those that were taken included."""
        return len(self._missing)

    def put_back(self, stage: Stage) -> None:
        """Make a stage ready, for the first time or once more, whichever devices it had."""
        planned = self._stages[stage.id]
        urgency = (-self._remaining.get(stage.id, 0.0), self._place[stage.id])
        heapq.heappush(self._ready.setdefault(demand_of(planned), []), _Ready(urgency, planned))

    def demands(self) -> list[Demand]:
        """Of the stages that are ready, that of the most urgent first."""
        return sorted(
            (demand for demand, ready in self._ready.items() if ready), key=lambda one: self._ready[one][0].urgency
        )

    def hold_back(self, may_start: Callable[[Stage], bool]) -> list[Stage]:
        """Take away those that are ready and may not start, down to the first of each demand that may."""
        held = []
        for ready in self._ready.values():
            while ready and not may_start(ready[0].stage):
                held.append(heapq.heappop(ready).stage)
        return held

    def take(self, demand: Demand) -> Stage:
        """The most urgent of those that are ready and ask for this."""
        return heapq.heappop(self._ready[demand]).stage

    def end(self, identity: str, *, succeeded: bool) -> Iterator[tuple[Stage, str]]:
        """Note that a stage came to its end. Yields each that cannot run any more, with what it needs in vain."""
        del self._missing[identity]
        ended = deque([(identity, succeeded)])
        while ended:
            one, has_result = ended.popleft()
            for follower in self._after.pop(one, ()):
                self._release(follower)
            for follower in self._needed_by.pop(one, ()):
                if has_result:
                    self._release(follower)
                elif self._missing.pop(follower, None) is not None:
                    ended.append((follower, False))
                    yield self._stages[follower], one

    def _release(self, identity: str) -> None:
        if identity in self._missing:
            self._missing[identity] -= 1
            if self._missing[identity] == 0:
                self.put_back(self._stages[identity])


def demand_of(stage: Stage) -> Demand:
    """What a stage takes; one that fetches computes nothing, and takes a lane for fetching."""
    if stage.operation is Operation.FETCH:
        return Demand((Operation.FETCH.value,))
    count = min(stage.device_count, len(stage.device_names))
    return Demand(stage.device_names, count, stage.host_alone, stage.timed)


def remaining_seconds(stages: Sequence[Stage], seconds: Mapping[str, float]) -> dict[str, float]:
    """Of each stage, by its id, the longest time from its start to the end of all that follows from it."""
    remaining = {stage.id: 0.0 for stage in stages}
    for stage in reversed(stages):
        remaining[stage.id] += seconds.get(stage.id, 0.0)
        for before in (*stage.needs, *stage.after):
            if before in remaining:
                remaining[before] = max(remaining[before], remaining[stage.id])
    return remaining
