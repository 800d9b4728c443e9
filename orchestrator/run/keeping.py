"""Which checkpoints are dropped, and when: each after its last reader, by what the manifest keeps.

What it was and how it was made stays in the store's result, so that it can be made again.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.contract import Operation, Sha256
from orchestrator.manifest import KeepCheckpoints
from orchestrator.run.known import Known
from orchestrator.run.sizes import Footprint
from orchestrator.stages import Stage
from orchestrator.store import Store
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.history import keys_of_others

DROPPED: Mapping[KeepCheckpoints, Collection[Operation]] = {
    KeepCheckpoints.ALL: (),
    KeepCheckpoints.LAST: (Operation.FETCH, Operation.EXPORT, Operation.STATES),
    KeepCheckpoints.NONE: (Operation.FETCH, Operation.COMPRESS, Operation.EXPORT, Operation.STATES),
}
"""What of a model is dropped by what made it; data sets are small, and stay."""


def goes(stage: Stage, dropped: Collection[Operation]) -> bool:
    """Whether its output goes when nobody has to read it any more, where that of the `dropped` operations does."""
    return stage.subject is not None and stage.operation in dropped


def droppable(stages: Iterable[Stage], keep: KeepCheckpoints) -> set[str]:
    """The ids of those whose output goes when nobody has to read it any more."""
    return {stage.id for stage in stages if goes(stage, DROPPED[keep])}


def passing_before(
    stages: Iterable[Stage], known: Known, mine: Collection[str], keep: KeepCheckpoints, store: Store, run: str
) -> list[Stage]:
    """Those of the `stages` whose output is there, and goes: what somebody made to go, and what is `mine`, made by this
    `run` to stay, as long as no other run refers to it."""
    passing, ours = list[Stage](), list[Stage]()
    for stage in stages:
        record = known.records.get(stage.id)
        if record is None or record.provenance.artifact is None or not goes(stage, DROPPED[keep]):
            continue
        if store.artifacts.is_passing(record.provenance.artifact):
            passing.append(stage)
        elif stage.id in mine:
            ours.append(stage)
    of_others = keys_of_others(store, run) if ours else ()
    return [*passing, *(stage for stage in ours if known.keys[stage.id] not in of_others)]


class Readers:
    """Who still has to read what the stages make. `stages` are those to run; of what others made, that of `before` may
    be dropped as well."""

    def __init__(self, stages: Iterable[Stage], keep: KeepCheckpoints, before: Iterable[Stage] = ()) -> None:
        self._stages = {stage.id: stage for stage in stages}
        self._waiting = Counter(need for stage in self._stages.values() for need in stage.needs)
        self._droppable = droppable((*self._stages.values(), *before), keep)
        self.passing = frozenset(self._droppable)
        """The stages whose output goes."""

    def unread(self) -> Iterator[str]:
        """Those whose output nobody has to read any more, to be dropped; each is yielded once."""
        yield from self._unread(tuple(self._droppable))

    def end(self, stage: str) -> Iterator[str]:
        """Note that a stage came to its end. Yields as `unread` does."""
        ended = self._stages.pop(stage)
        for need in ended.needs:
            self._waiting[need] -= 1
        yield from self._unread((stage, *ended.needs))

    def _unread(self, of: Iterable[str]) -> Iterator[str]:
        for one in of:
            if one in self._droppable and one not in self._stages and self._waiting[one] <= 0:
                self._droppable.remove(one)
                yield one


@dataclass(frozen=True)
class Peak:
    """The disk that stages need at most, when they run one after the other in their order: `most_bytes`, during the
    stage `at`; and what of it is there in the end."""

    most_bytes: int = 0
    at: str | None = None
    kept_bytes: int = 0


def peak_of(stages: Sequence[Stage], footprints: Mapping[str, Footprint], keep: KeepCheckpoints) -> Peak:
    """By the `footprints` of those that have one, beside what is there before the first of the `stages`."""
    readers, there, peak = Readers(stages, keep), 0, Peak()
    for stage in stages:
        taken = footprints.get(stage.id, Footprint(0))
        most = there + taken.made_bytes + taken.beside_bytes
        if most > peak.most_bytes:
            peak = Peak(most, stage.id)
        there += taken.made_bytes
        there -= sum(footprints[one].made_bytes for one in readers.end(stage.id) if one in footprints)
    return Peak(peak.most_bytes, peak.at, there)


class Keeper:
    """Drops what nobody has to read any more. Safe to use from several threads."""

    def __init__(self, readers: Readers, artifacts: Artifacts, note: Callable[[str], None]) -> None:
        self._readers = readers
        self._artifacts = artifacts
        self._note = note
        self._holding: dict[Sha256, set[str]] = {}
        self._made: dict[str, Sha256] = {}
        self._in_use: dict[Sha256, str] = {}
        self._lock = threading.Lock()
        self._dropped_bytes = self._dropped = 0

    def begin(self) -> None:
        """Drop what an interruption left of what nobody reads."""
        with self._lock:
            self._drop(self._readers.unread())

    def made(self, stage: str, digest: Sha256) -> None:
        """Note what a stage made, or was found to have made. What is to stay is kept from whoever would drop it.

        Raises:
            OSError: the store cannot be written.
        """
        self._artifacts.want(digest)
        if stage not in self._readers.passing:
            self._artifacts.keep(digest)
        with self._lock:
            self._made[stage] = digest
            self._holding.setdefault(digest, set()).add(stage)

    def end(self, stage: str) -> None:
        """Note that a stage came to its end, with or without a result."""
        with self._lock:
            self._drop(self._readers.end(stage))

    def close(self) -> None:
        """Say what was dropped, and what was not, since others read it."""
        with self._lock:
            self._drop(())
            if self._dropped:
                size = f"{self._dropped_bytes / 1e9:.1f} GB"
                self._note(f"dropped {self._dropped} checkpoints after their last readers, {size}: `keep_checkpoints`")
            for stage in self._in_use.values():
                self._note(f"what {stage} made is left there: another orchestrator reads it")
            self._artifacts.close()

    def _drop(self, stages: Iterable[str]) -> None:
        """What somebody else reads is tried again at the next end."""
        for stage in stages:
            digest = self._made.get(stage)
            if digest is not None and digest in self._holding:
                self._holding[digest].discard(stage)
                if not self._holding[digest]:
                    del self._holding[digest]
                    self._in_use[digest] = stage
        for digest in [one for one in self._in_use if one not in self._holding]:
            try:
                freed = self._artifacts.drop(digest)
            except OSError as failure:
                self._note(f"what {self._in_use.pop(digest)} made cannot be dropped: {failure}")
                continue
            if freed is not None:
                del self._in_use[digest]
                self._dropped += freed > 0
                self._dropped_bytes += freed
