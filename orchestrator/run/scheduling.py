"""When each stage runs, and where: one queue, whatever the hosts, with a lane for each device, and lanes to fetch."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from orchestrator.errors import Interrupted
from orchestrator.run.execution import Perform, execute
from orchestrator.run.lanes import Lanes, Placed, have_a_choice, lanes_of
from orchestrator.run.queue import Queue
from orchestrator.run.resources import is_idle
from orchestrator.run.room import POLL_SECONDS, Room
from orchestrator.stages import Stage

_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.1, 5.0
"""After which a stage that another orchestrator is at is looked at again: each time twice as long, up to the last."""


class End(Enum):
    """How work on a stage ended. `ELSEWHERE`: another orchestrator is at it, so that it is to be looked at again.
    `NO_ROOM`: the disk was full, so that it is to be done again when there is room."""

    RESULT = auto()
    NO_RESULT = auto()
    ELSEWHERE = auto()
    NO_ROOM = auto()


Work = Callable[[Stage, Perform], End]
"""Brings one stage to its end, on the devices that it names, by what performs stages on the host that it got."""
Skip = Callable[[Stage, str], None]
"""Is told of a stage that cannot run, and what it needs in vain."""


class Executor(Protocol):
    def run(
        self, stages: Sequence[Stage], work: Work, skip: Skip, *, done: Collection[str] = (), room: Room | None = None
    ) -> None:
        """Call `work` for each stage whose needs have a result until it has come to an end, and `skip` for the others.

        A stage starts when none of those that stand in its `after` is waiting or at work any more, and gets
        `device_count` of its devices then, all of one host. One that is at work elsewhere is put aside, and another
        taken; one whose host is lost starts anew. One that has no `room` waits until it has.

        `done` names stages that succeeded before. `stages` come in an order in which each stands after what it needs.
        Raises whatever `work` raises, after the stages in flight have ended.
        """
        ...


class HostLost(Exception):
    """A stage did not come to an end, since what it ran on went away. It is to be done again, wherever."""


class Hosts(Protocol):
    """The machines that stages run on."""

    @property
    def most_stages(self) -> int | None:
        """How many run at a time at most; None: as many as there are lanes when the work begins."""
        ...

    @property
    def one_timed(self) -> bool:
        """Whether each times one stage at a time, whatever its devices."""
        ...

    @property
    def seconds_between_looks(self) -> float | None:
        """How long `there` is taken to stay as it is while stages are at work; None: to their end."""
        ...

    def there(self, stages: Sequence[Stage]) -> Mapping[str, Collection[str]]:
        """Of each host that is there now the names of its devices, as stages name them, and of its lane for fetching.

        Raises:
            HostFault: none is left, and none came.
        """
        ...

    def perform(self, host: str) -> Perform:
        """What brings a stage to its end there. It raises `HostLost` besides what `execute` raises."""
        ...

    def is_idle(self, host: str, device: str) -> bool:
        """Whether nobody computes there at this instant, as far as that can be told from here."""
        ...


class ThisHost:
    """The machine that the orchestrator runs on."""

    most_stages = None
    one_timed = False
    seconds_between_looks = None

    def there(self, stages: Sequence[Stage]) -> Mapping[str, Collection[str]]:
        """See `Hosts`."""
        return {"": lanes_of(stages)}

    def perform(self, host: str) -> Perform:
        """See `Hosts`."""
        return execute

    def is_idle(self, host: str, device: str) -> bool:
        """See `Hosts`."""
        return is_idle(device)


class QueueExecutor:
    """Runs stages on threads, each of which waits for one worker. A device's stages run one after the other.

    With one device they come in the order of the plan, so that a model is done before the next. With several, first
    comes what most hangs on by `seconds`: what stages will take, as far as that is known. Stages that want their host
    alone run when nothing else does there.
    """

    def __init__(self, cancel: threading.Event, seconds: Mapping[str, float] | None, hosts: Hosts) -> None:
        self._cancel = cancel
        self._seconds = seconds
        self._hosts = hosts

    def run(
        self, stages: Sequence[Stage], work: Work, skip: Skip, *, done: Collection[str] = (), room: Room | None = None
    ) -> None:
        """See `Executor`."""
        hosts = self._hosts
        lanes = Lanes(hosts.there(stages), hosts.one_timed, hosts.is_idle)
        queue = Queue(stages, done, self._seconds if have_a_choice(lanes.hosts) else None)
        running: dict[Future[End], Placed] = {}
        elsewhere, held, room = _Elsewhere(), list[Stage](), room or Room.for_all(stages)
        with ThreadPoolExecutor(hosts.most_stages or max(1, lanes.count), thread_name_prefix="stage") as pool:
            try:
                while len(queue):
                    for again in (*elsewhere.due(), *held):
                        queue.put_back(again)
                    held = queue.hold_back(room.admits)
                    while (placed := lanes.next_of(queue)) is not None:
                        room.begin(placed.stage)
                        running[pool.submit(work, placed.stage, hosts.perform(placed.host))] = placed
                        held += queue.hold_back(room.admits)
                    if held and not (running or queue.demands() or elsewhere.seconds is not None):
                        room.wait(held)
                        continue
                    for future in self._wait(running, elsewhere, POLL_SECONDS if held else None):
                        ended = running.pop(future)
                        lanes.leave(ended)
                        self._heed(ended.stage, future, queue, elsewhere, skip, room)
                    if hosts.seconds_between_looks is not None:
                        lanes.hosts = hosts.there(stages)
            except BaseException:
                self._cancel.set()
                raise

    def _heed(
        self, stage: Stage, future: Future[End], queue: Queue, elsewhere: "_Elsewhere", skip: Skip, room: Room
    ) -> None:
        """What follows from how the work on a stage ended. Raises what the work raised."""
        try:
            end = future.result()
        except HostLost:
            room.put_back(stage)
            queue.put_back(stage)
            return
        if end is End.ELSEWHERE:
            room.put_back(stage)
            elsewhere.put(stage)
            return
        elsewhere.forget(stage)
        if end is End.NO_ROOM:
            room.met_full_disk(stage)
            queue.put_back(stage)
            return
        room.end(stage, has_result=end is End.RESULT)
        for hopeless, cause in queue.end(stage.id, succeeded=end is End.RESULT):
            room.end(hopeless, has_result=False)
            skip(hopeless, cause)

    def _wait(
        self, running: Mapping[Future[End], Placed], elsewhere: "_Elsewhere", most_seconds: float | None
    ) -> Collection[Future[End]]:
        """Those that ended; after a while none, where something is to be looked at again."""
        looks = [one for one in (elsewhere.seconds, self._hosts.seconds_between_looks, most_seconds) if one is not None]
        seconds = min(looks, default=None)
        if running:
            return wait(running, seconds, FIRST_COMPLETED).done
        if self._cancel.wait(seconds):
            raise Interrupted("stopped while waiting for another orchestrator")
        return ()


class LocalExecutor(QueueExecutor):
    """Runs stages on this host."""

    def __init__(self, cancel: threading.Event, seconds: Mapping[str, float] | None = None) -> None:
        super().__init__(cancel, seconds, ThisHost())


@dataclass
class _Elsewhere:
    """Stages that other orchestrators are at, and when each is to be looked at again."""

    _waiting: list[tuple[float, Stage]] = field(default_factory=list)
    _times: Counter[str] = field(default_factory=Counter)

    def put(self, stage: Stage) -> None:
        seconds = min(_LAST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2 ** self._times[stage.id])
        self._times[stage.id] += 1
        self._waiting.append((time.monotonic() + seconds, stage))

    def forget(self, stage: Stage) -> None:
        self._times.pop(stage.id, None)

    def due(self) -> list[Stage]:
        """Those that are to be looked at now, and are not kept any more."""
        now = time.monotonic()
        due = [stage for when, stage in self._waiting if when <= now]
        self._waiting = [one for one in self._waiting if one[0] > now]
        return due

    @property
    def seconds(self) -> float | None:
        """Until the next is due; None where there is none."""
        return max(0.0, min(when for when, _ in self._waiting) - time.monotonic()) if self._waiting else None
