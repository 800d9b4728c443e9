"""What is busy, on which host: which stage starts next, where, and on which of its devices."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from harness.contract import Operation
from orchestrator.run.queue import Demand, Queue, demand_of
from orchestrator.stages import Stage

_FETCH_LANES = 2


@dataclass(frozen=True)
class Placed:
    """A stage that starts, with the devices that it gets on that host."""

    stage: Stage
    host: str


@dataclass
class Lanes:
    """`hosts` has of each host the names of its devices and of its lane for fetching, and may change meanwhile.

    With `one_timed` a host times one stage at a time, whatever its devices. `is_idle` says of a device of a host
    whether nobody else uses it at this instant; of two that are free it decides.
    """

    hosts: Mapping[str, Collection[str]]
    one_timed: bool = False
    is_idle: Callable[[str, str], bool] = lambda host, name: True
    _busy: Counter[tuple[str, str]] = field(default_factory=Counter)
    _last: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    _running: dict[str, list[Demand]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many stages can run at a time."""
        return sum(_capacity(name) for names in self.hosts.values() for name in names)

    def next_of(self, queue: Queue) -> Placed | None:
        """The most urgent stage that can start now, on the devices that it gets; they are busy from then on.

        What waits for several devices keeps them from less urgent stages. A host on which nothing runs first takes what
        wants a host alone.
        """
        kept: set[tuple[str, str]] = set()
        demands = queue.demands()
        for only_alone in (True, False):
            for demand in demands:
                if only_alone and not demand.alone:
                    continue
                admitting = [host for host in self.hosts if self._admits(host, demand)]
                free = {host: self._free(host, demand, kept) for host in admitting}
                able = [host for host in admitting if len(free[host]) >= demand.count]
                if able:
                    return self._enter(queue.take(demand), demand, able, free)
                if admitting and not demand.alone:
                    most = max(admitting, key=lambda host: len(free[host]))
                    kept.update((most, name) for name in free[most])
        return None

    def leave(self, placed: Placed) -> None:
        """Note that a stage has ended, as `next_of` gave it."""
        demand = demand_of(placed.stage)
        self._busy.subtract((placed.host, name) for name in demand.names)
        self._running[placed.host].remove(demand)

    def _admits(self, host: str, demand: Demand) -> bool:
        running = self._running.get(host, ())
        if demand.alone and running:
            return False
        if self.one_timed and demand.timed and any(one.timed for one in running):
            return False
        return not any(one.alone for one in running)

    def _free(self, host: str, demand: Demand, kept: Collection[tuple[str, str]]) -> list[str]:
        there = self.hosts[host]
        return [
            name
            for name in demand.names
            if name in there and self._busy[host, name] < _capacity(name) and (host, name) not in kept
        ]

    def _enter(self, stage: Stage, demand: Demand, able: Sequence[str], free: Mapping[str, Sequence[str]]) -> Placed:
        """Of a measurement in rounds on the host and the devices of the one before it, as far as they are free; else on
        the host with most that is free, on what nobody else of that host uses."""
        before = {self._last[one] for one in stage.after if one in self._last}
        hosts = {host for host, _ in before}
        host = min(able, key=lambda one: (one not in hosts, -len(free[one])))
        names = tuple(free[host])
        if len(names) > demand.count:
            mine = {name for there, used in before if there == host for name in used}
            names = tuple(
                sorted(names, key=lambda name: (name not in mine, not self.is_idle(host, name)))[: demand.count]
            )
        placed = Placed(stage.on(names), host)
        taken = demand_of(placed.stage)
        self._busy.update((host, name) for name in taken.names)
        self._running.setdefault(host, []).append(taken)
        if stage.timed:
            self._last[stage.id] = host, names
        return placed


def lanes_of(stages: Sequence[Stage]) -> tuple[str, ...]:
    """The devices that the stages name, and the lane for fetching where one fetches."""
    return tuple(dict.fromkeys(name for stage in stages for name in demand_of(stage).names))


def have_a_choice(hosts: Mapping[str, Collection[str]]) -> bool:
    """Whether there are several devices."""
    return sum(name != Operation.FETCH.value for names in hosts.values() for name in names) > 1


def _capacity(name: str) -> int:
    """How many stages a lane takes at a time."""
    return _FETCH_LANES if name == Operation.FETCH.value else 1
