"""The runs of a store, read again only where their records changed."""

import threading
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from orchestrator.store import RunRecord, StageStatus, Store, Unreadable
from orchestrator.store.history import is_at_work

_MOST_RECORDS = 4
"""Kept whole; of all others what a list of runs shows."""


class RunState(StrEnum):
    """`left`: it did not come to its end, and no process of this machine is at work on it."""

    AT_WORK = "at work"
    ENDED = "ended"
    INTERRUPTED = "interrupted"
    LEFT = "not ended"


@dataclass(frozen=True)
class RunLine:
    """A run in one line. `counts` has the number of stages of each status."""

    name: str
    state: RunState
    created: datetime
    updated: datetime
    runtime: str
    device: str
    counts: Counter[StageStatus]
    not_planned: int

    @property
    def stages(self) -> int:
        return self.counts.total()

    @property
    def with_result(self) -> int:
        return self.counts[StageStatus.DONE] + self.counts[StageStatus.CACHED]

    @property
    def without(self) -> str:
        """How many stages ended without a result, by how; empty where none did."""
        ends = (StageStatus.FAILED, StageStatus.UNSUPPORTED, StageStatus.BLOCKED, StageStatus.INTERRUPTED)
        told = [f"{self.counts[status]} {status.value}" for status in ends if self.counts[status]]
        return ", ".join([*told, *([f"{self.not_planned} not planned"] if self.not_planned else [])])


class Watch:
    """Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._lines: dict[str, tuple[object, RunLine | Unreadable]] = {}
        self._records: dict[str, tuple[object, RunRecord]] = {}

    def runs(self) -> tuple[tuple[RunLine, ...], tuple[Unreadable, ...]]:
        """Those that can be read, the newest first, and those that cannot."""
        with self._lock:
            names = self.store.runs.names()
            self._lines = {name: self._line(name) for name in names}
            found = [line for _, line in self._lines.values()]
        lines = [self._now(one) for one in found if isinstance(one, RunLine)]
        lines.sort(key=lambda line: line.created, reverse=True)
        return tuple(lines), tuple(one for one in found if isinstance(one, Unreadable))

    def record(self, name: str) -> RunRecord | None:
        """The run of exactly this name; None where there is none.

        Raises:
            Unreadable: it is there and cannot be read.
        """
        with self._lock:
            if name not in self.store.runs.names():
                return None
            return self._read(name, self.store.runs.stamp(name))

    def line(self, record: RunRecord) -> RunLine:
        return self._now(_line_of(record))

    def _line(self, name: str) -> tuple[object, RunLine | Unreadable]:
        stamp = self.store.runs.stamp(name)
        known = self._lines.get(name)
        if known is not None and known[0] == stamp:
            return known
        try:
            return stamp, _line_of(self.store.runs.read(name))
        except Unreadable as unreadable:
            return stamp, unreadable

    def _read(self, name: str, stamp: object) -> RunRecord:
        known = self._records.pop(name, None)
        if known is None or known[0] != stamp:
            known = stamp, self.store.runs.read(name)
        self._records[name] = known
        while len(self._records) > _MOST_RECORDS:
            del self._records[next(iter(self._records))]
        return known[1]

    def _now(self, line: RunLine) -> RunLine:
        """Whether somebody is at work stands in no record."""
        if line.state is RunState.ENDED:
            return line
        at_work = is_at_work(self.store, line.name)
        return RunLine(**{**vars(line), "state": RunState.AT_WORK if at_work else line.state})


def _line_of(record: RunRecord) -> RunLine:
    state = RunState.INTERRUPTED if record.interrupted else RunState.LEFT
    return RunLine(
        name=record.run,
        state=RunState.ENDED if record.ended is not None else state,
        created=record.created,
        updated=record.updated,
        runtime=record.runtime,
        device=record.device_model,
        counts=Counter(one.status for one in record.stages.values()),
        not_planned=len(record.not_planned),
    )
