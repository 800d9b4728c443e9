"""Artifacts held against their digests: each at its first use in a run, or all that a store holds, results included."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import NonNegativeFloat, NonNegativeInt

from harness.contract import Descriptor, Frozen, Sha256
from orchestrator.errors import Interrupted
from orchestrator.host import locks
from orchestrator.host.hashing import Poll
from orchestrator.store.described import BadArtifact, check_published, read_descriptor
from orchestrator.store.history import all_runs
from orchestrator.store.records import StageRecord
from orchestrator.store.store import Store
from orchestrator.store.versioned import Refused, Unreadable

_WORTH_A_NOTE_BYTES = 2**30

_Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Of each file its name, inode, time of change in nanoseconds, and size in bytes."""


class Verifier:
    """Verifies the artifacts that the stages of one run read, each once. Safe to use from several threads.

    A damaged artifact is discarded, so that its stage makes it again. `damages` is what the run's record says of it.
    """

    def __init__(self, store: Store, cancel: threading.Event, note: Callable[[str], None]) -> None:
        self._store = store
        self._cancel = cancel
        self._note = note
        self._verified: dict[Sha256, _Fingerprint] = {}
        self._one_at_a_time = threading.Lock()
        self._damages: list[str] = []

    @property
    def damages(self) -> tuple[str, ...]:
        return tuple(self._damages)

    def add(self, damages: Iterable[str]) -> None:
        """Say of these, too, in the run's record: another host of the same run found them."""
        with self._one_at_a_time:
            self._damages.extend(damages)

    def is_whole(self, record: StageRecord) -> bool:
        """Whether what the stage made for others is there, byte for byte, if it made anything; by its digests, once.

        Raises:
            Interrupted: the run was stopped meanwhile.
            StoreError: it is damaged and cannot be removed.
        """
        digest, descriptor = record.provenance.artifact, record.artifact
        if digest is None or descriptor is None:
            return True
        with self._one_at_a_time:
            now = _fingerprint(self._store.artifacts.path(digest), descriptor)
            if now is None:
                return False
            if self._verified.get(digest) != now:
                if not self._holds(record.provenance.stage, digest, descriptor):
                    return False
                self._verified[digest] = now
            return True

    def published(self, record: StageRecord) -> None:
        """Remember that the artifact was hashed when it was published, in this run."""
        digest, descriptor = record.provenance.artifact, record.artifact
        if digest is not None and descriptor is not None:
            now = _fingerprint(self._store.artifacts.path(digest), descriptor)
            with self._one_at_a_time:
                if now is not None:
                    self._verified[digest] = now

    def _holds(self, stage: str, digest: Sha256, descriptor: Descriptor) -> bool:
        if descriptor.size_bytes >= _WORTH_A_NOTE_BYTES:
            self._note(f"{stage}: {descriptor.size_bytes / 1e9:.1f} GB are held against their digests")
        try:
            self._store.artifacts.check(digest, descriptor, self._poll)
        except BadArtifact as bad:
            damage = f"what {stage} made is damaged and is made again: artifact {digest[:12]}: {bad}"
            waits = f"{stage}: waits until nobody reads artifact {digest[:12]}, which is damaged"
            self._note(damage)
            self._store.artifacts.discard(digest, descriptor, self._cancel, lambda: self._note(waits), self._poll)
            self._damages.append(damage)
            return False
        return True

    def _poll(self) -> None:
        if self._cancel.is_set():
            raise Interrupted("stopped while artifacts were held against their digests")


def _fingerprint(folder: Path, descriptor: Descriptor) -> _Fingerprint | None:
    """None where a file is missing."""
    try:
        found = [(name, (folder / name).lstat()) for name in sorted(descriptor.files)]
    except OSError:
        return None
    return tuple((name, status.st_ino, status.st_mtime_ns, status.st_size) for name, status in found)


class Damage(Frozen):
    """Something in a store that is not as it was written. `what` is its path within the store."""

    what: str
    reason: str


class Verification(Frozen):
    """What a whole store was found to be."""

    runs: NonNegativeInt
    results: NonNegativeInt
    artifacts: NonNegativeInt
    artifact_bytes: NonNegativeInt
    seconds: NonNegativeFloat
    damages: tuple[Damage, ...]


def verify_store(store: Store) -> Verification:
    """Hold every run and result against its seal and its own parts, and every artifact against its digests.

    Nothing is written, so that a store will do that nobody may write. What orchestrators at work add meanwhile appears
    whole, or not at all.
    """
    begin = time.monotonic()
    with locks.hold_existing(store.locks / "store"):
        records, unreadable = all_runs(store)
        imported = (one for record in records for one in store.imported.unreadable(record.run))
        damages = [Damage(what=one.what, reason=one.reason) for one in (*unreadable, *imported)]
        keys, digests = _names(store.stages), _names(store.artifacts.folder)
        for key in keys:
            damages += _damages_of_result(store, key)
        held_bytes = 0
        for size_bytes, damage in _check_artifacts(store, digests):
            held_bytes += size_bytes
            damages += [damage] if damage else []
    return Verification(
        runs=len(records) + len(unreadable),
        results=len(keys),
        artifacts=len(digests),
        artifact_bytes=held_bytes,
        seconds=time.monotonic() - begin,
        damages=tuple(damages),
    )


def _check_artifacts(store: Store, digests: list[str]) -> list[tuple[int, Damage | None]]:
    """As many artifacts at once as there are cores, each by its files' digests; an interruption ends them all."""
    stop = threading.Event()

    def poll() -> None:
        if stop.is_set():
            raise Interrupted("stopped while the store was verified")

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="artifact") as pool:
        running = [pool.submit(_check_artifact, store, digest, poll) for digest in digests]
        try:
            return [one.result() for one in running]
        except BaseException:
            stop.set()
            raise


def _names(folder: Path) -> list[str]:
    """What lies in a folder of the store, but for what is being removed or written."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _damages_of_result(store: Store, key: str) -> Iterator[Damage]:
    what = f"{store.stages.name}/{key}"
    try:
        record = store.read(key)
    except Unreadable as unreadable:
        yield Damage(what=what, reason=unreadable.reason)
        return
    if record is None:
        yield Damage(what=what, reason="it is no folder")
        return
    damaged = [Damage(what=f"{what}/{name}", reason=reason) for name, reason in store.outcomes.damaged(record)]
    try:
        store.outcomes.of(record)
    except Refused as refused:
        damaged = damaged or [Damage(what=what, reason=refused.reason)]
    yield from damaged


def _check_artifact(store: Store, digest: str, poll: Poll) -> tuple[int, Damage | None]:
    """The bytes that it holds by its descriptor, and what is wrong with it."""
    what, size_bytes = f"{store.artifacts.folder.name}/{digest}", 0
    try:
        poll()
        descriptor = read_descriptor(store.artifacts.path(digest))
        if descriptor.digest != digest:
            return size_bytes, Damage(what=what, reason="its descriptor is not the one that it was published with")
        size_bytes = descriptor.size_bytes
        check_published(store.artifacts.path(digest), descriptor, poll=poll)
    except BadArtifact as bad:
        return size_bytes, Damage(what=what, reason=str(bad))
    return size_bytes, None
