"""Room on the disk for what is still to be made: given in the order of the plan, so that what is begun can be ended.

A stage that makes a checkpoint starts when that fits beside what all stages before it still need, one after the other.
So one that runs ahead, such as a fetch, never takes the room in which an earlier one would end and have others dropped.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from orchestrator.errors import DiskFull, Interrupted
from orchestrator.run import space
from orchestrator.run.sizes import Footprint
from orchestrator.runtime.launch import LEAST_FREE_BYTES
from orchestrator.stages import Stage
from orchestrator.store import Store
from orchestrator.store.cleaning import would_free

MARGIN_BYTES = 2 * LEAST_FREE_BYTES
"""That stays free beside every checkpoint: a worker is killed before it takes the last of the disk."""
POLL_SECONDS = 5.0
_MOST_NAMES = 3
_Done = TypeVar("_Done")


def free_bytes(folder: Path) -> int:
    """What can be written below a folder: nothing where its file system has no name left for a file."""
    disk = os.statvfs(folder)
    return 0 if disk.f_files and not disk.f_favail else disk.f_bavail * disk.f_frsize


@dataclass
class _Made:
    """What a stage makes, at its `place` in the plan. `readers` are the places of who will read it, ascending."""

    place: int
    taken: Footprint
    is_dropped: bool
    is_there: bool
    readers: list[int] = field(default_factory=list)

    @property
    def most_bytes(self) -> int:
        """While it is being made."""
        return self.taken.made_bytes + self.taken.beside_bytes

    @property
    def last_place(self) -> int | None:
        """Of the stage after which it is dropped; None where it stays."""
        return max(self.place, *self.readers[-1:]) if self.is_dropped else None


class Room:
    """Says who may start, by the room that there is. Safe to use from several threads.

    `stages` are those to run, in the order of the plan; `footprints` are by the ids of what these make, and of what is
    there already. What `dropped` names goes after its last reader. Where it `waits`, a full disk pauses the run, until
    there is room; else it ends it. `ways` says, in a clause each, what gives room beside what the run itself keeps.
    """

    def __init__(
        self,
        folder: Path,
        stages: Sequence[Stage],
        footprints: Mapping[str, Footprint],
        dropped: Collection[str],
        cancel: threading.Event,
        note: Callable[[str], None],
        *,
        waits: bool = False,
        ways: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._folder = folder
        self._cancel = cancel
        self._note = note
        self.waits = waits
        self._ways = ways
        self._lock = threading.RLock()
        self._place = {stage.id: place for place, stage in enumerate(stages)}
        self._made: dict[str, _Made] = {}
        self._outstanding_bytes = 0
        self._running: set[str] = set()
        self._kept: dict[str, int] = {}
        self._full: Counter[str] = Counter()
        self._lacking: dict[str, int] = {}
        for name, taken in footprints.items():
            place = self._place.get(name, -1)
            self._made[name] = _Made(place, taken, name in dropped, is_there=place < 0)
            self._outstanding_bytes += self._made[name].most_bytes if place >= 0 else 0
        self._reads: dict[str, tuple[str, ...]] = {}
        for stage in stages if self._made else ():
            self._reads[stage.id] = tuple(need for need in stage.needs if need in self._made)
            for need in self._reads[stage.id]:
                self._made[need].readers.append(self._place[stage.id])
        for name in [name for name, made in self._made.items() if made.is_there and not made.readers]:
            del self._made[name]

    @classmethod
    def for_all(cls, stages: Sequence[Stage]) -> Self:
        """In which nobody ever waits."""
        return cls(Path(), stages, {}, (), threading.Event(), lambda note: None)

    def admits(self, stage: Stage) -> bool:
        """Whether the stage can start now."""
        with self._lock:
            return self._most_wanted(stage.id) == 0 or free_bytes(self._folder) >= self._wanted(stage.id)

    def begin(self, stage: Stage) -> None:
        """Note that a stage starts: what it makes is promised to it."""
        with self._lock:
            self._running.add(stage.id)

    def end(self, stage: Stage, *, has_result: bool) -> None:
        """Note that a stage came to its end, or will never start."""
        with self._lock:
            self._running.discard(stage.id)
            self._lacking.pop(stage.id, None)
            reads = self._reads.get(stage.id, ())
            if (made := self._made.get(stage.id)) is not None:
                made.is_there = True
                self._outstanding_bytes -= made.most_bytes
                if not has_result:
                    del self._made[stage.id]
            for name in reads:
                if name in self._made:
                    self._made[name].readers.remove(self._place[stage.id])
            for name in (stage.id, *reads):
                if (one := self._made.get(name)) is not None and one.is_there and not one.readers:
                    del self._made[name]
                    if not one.is_dropped:
                        self._kept[name] = one.taken.made_bytes

    def put_back(self, stage: Stage) -> None:
        """Note that a stage that started did not come to an end, and will start anew."""
        with self._lock:
            self._running.discard(stage.id)

    def met_full_disk(self, stage: Stage) -> None:
        """As `put_back`, of one that met a full disk: it starts anew when there is as much room as it is known to take,
        and if that was too little, more than there was then."""
        with self._lock:
            self._running.discard(stage.id)
            had = free_bytes(self._folder) if self._full[stage.id] else 0
            self._full[stage.id] += 1
            self._lacking[stage.id] = had + space.RESERVE_BYTES

    def wait(self, held: Sequence[Stage]) -> None:
        """Return when one of these may start. To be called when nothing runs that could give room.

        Raises:
            DiskFull: none may, and this does not wait.
            Interrupted: the run was stopped meanwhile.
        """
        self._until(lambda: any(map(self.admits, held)), lambda: self._refusal(held))

    def patiently(self, write: Callable[[], _Done]) -> _Done:
        """Do what writes a little, as soon as there is room for it. Raises as `wait` does, and what `write` raises."""
        done: list[_Done] = []
        failed: list[DiskFull] = []

        def is_written() -> bool:
            try:
                done.append(write())
            except DiskFull as full:
                failed.append(full)
            return bool(done)

        self._until(is_written, lambda: failed[-1])
        return done[0]

    def _until(self, is_over: Callable[[], bool], refusal: Callable[[], DiskFull]) -> None:
        is_paused = False
        while not is_over():
            if not self.waits:
                raise refusal()
            if not is_paused:
                ways = "; or ".join(self._all_ways())
                self._note(f"the run pauses: {refusal().message}. It goes on by itself when you {ways}")
                is_paused = True
            if self._cancel.wait(POLL_SECONDS):
                raise Interrupted("stopped while the disk had no room")
        if is_paused:
            self._note("the run goes on: there is room on the disk")

    def _refusal(self, held: Sequence[Stage]) -> DiskFull:
        with self._lock:
            wanted, stage = min((self._wanted(one.id), one.id) for one in held)
        free = free_bytes(self._folder)
        return DiskFull(
            f"no space is left: {stage} starts with {_gib(wanted)} in {self._folder}, and {_gib(free)} are free",
            hint=f"{'; or '.join(self._all_ways())}; then run the same command again to go on",
        )

    def _all_ways(self) -> list[str]:
        ways = ["free space on that disk"]
        with self._lock:
            kept = dict(self._kept)
        if kept:
            names = ", ".join(list(kept)[:_MOST_NAMES]) + (", …" if len(kept) > _MOST_NAMES else "")
            size = _gib(sum(kept.values()))
            ways.append(
                f"end it and go on with `--keep-checkpoints none`, which drops {size} that nobody reads ({names})"
            )
        return [*ways, *self._ways()]

    def _most_wanted(self, name: str) -> int:
        """No stage wants more; 0 where it may always start."""
        made, lacking = self._made.get(name), self._lacking.get(name, 0)
        if made is None or made.is_there or not made.most_bytes:
            return lacking
        return max(lacking, MARGIN_BYTES + self._outstanding_bytes)

    def _wanted(self, name: str) -> int:
        """What has to be free for the stage to start."""
        most = self._most_wanted(name)
        if most <= self._lacking.get(name, 0) or free_bytes(self._folder) >= most:
            return most
        own = self._made[name]
        promised = sum(self._made[one].most_bytes for one in self._running if one in self._made)
        before = self._most_before(own.place)
        return max(self._lacking.get(name, 0), MARGIN_BYTES + own.most_bytes + promised + before)

    def _most_before(self, place: int) -> int:
        """What the stages that come before need at most besides, when they run one after the other from now on."""
        events: list[tuple[int, bool, _Made]] = []
        for name, one in self._made.items():
            if not one.is_there and name not in self._running and one.place < place:
                events.append((one.place, False, one))
            begun = one.is_there or name in self._running or one.place < place
            if begun and (last := one.last_place) is not None and last < place:
                events.append((last, True, one))
        level = most = 0
        for _, goes, one in sorted(events, key=lambda event: event[:2]):
            if goes:
                level -= one.taken.made_bytes
            else:
                most = max(most, level + one.most_bytes)
                level += one.taken.made_bytes
        return most


def ways_of_cleaning(store: Store) -> Sequence[str]:
    """What `orchestrator clean` would free, where that is anything."""
    size = would_free(store)
    return (f"end it and `orchestrator clean`, which frees {_gib(size)}",) if size else ()


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
