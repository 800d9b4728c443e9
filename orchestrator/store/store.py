"""The store: results by stage key, artifacts by digest, runs by name. All but a run's journal appears by one rename.

Layout: `stages/<key>/` (the worker's `result.json`, `provenance.json` with the digests of what is kept, and request,
events and stderr), `artifacts/<digest>/`, `blocks/<digest>.json` (digests of the blocks of an artifact's large files),
`wheels/<sha256>` (packages that models and data sets were taken from), `runs/<run>/run.json`, its `journal.jsonl` while
it is at work, and `runs/<run>/imported/`, `failures/<key>/` (the last failed attempt),
`attempts/<key>@<random>@<owner>/` (work in flight), `resume/<key>/` (what unfinished work left to go on from) and
`locks/`. Results stand by themselves: without `artifacts/` they are read, scored and reported, too.
"""

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from harness.contract import (
    ARTIFACT_NAME,
    RESULT_NAME,
    RESUME_NAME,
    Descriptor,
    FileEntry,
    ResultEvent,
    Sha256,
    digest_file,
    read_regular,
)
from orchestrator.errors import StoreError
from orchestrator.host import locks
from orchestrator.host.faults import gone
from orchestrator.host.files import mount_of, remove, remove_if_there, sync_folder, write_atomically
from orchestrator.host.hashing import Poll, never
from orchestrator.host.owner import Owner
from orchestrator.stages import OUTPUT_NAME
from orchestrator.store import versioned
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.described import check_new
from orchestrator.store.door import is_usual, outcomes_names, take
from orchestrator.store.imported import ImportedResults
from orchestrator.store.outcomes import StoredOutcomes
from orchestrator.store.records import Provenance, StageRecord, described
from orchestrator.store.runs import Runs
from orchestrator.store.shared_code import digest_of_provenance, parse_provenance
from orchestrator.store.upgrades import STAGE_UPGRADES, STAGE_VERSION
from orchestrator.store.versioned import Unreadable
from orchestrator.store.wheels import KeptWheels

PROVENANCE_NAME = "provenance.json"

_Seen = tuple[tuple[int, int, int], ...]
"""What changes when a result's files do: of each its inode, time of change in nanoseconds, and size in bytes."""


class Store:
    """A store in a folder. Naming it and reading it create nothing; see `make`."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.stages = self.root / "stages"
        self.failures = self.root / "failures"
        self.attempts = self.root / "attempts"
        self.resumable = self.root / "resume"
        self.locks = self.root / "locks"
        self.artifacts = Artifacts(self.root / "artifacts", self.root / "blocks", self.root / "passing", self.locks)
        self.wheels = KeptWheels(self.root / "wheels", self.locks)
        self.runs = Runs(self.root / "runs")
        self.imported = ImportedResults(self.runs)
        self.outcomes = StoredOutcomes(self.stages)
        self._held: tuple[int, ...] | None = None
        self._kept: dict[Sha256, tuple[_Seen, StageRecord]] = {}

    def make(self) -> None:
        """Create what is missing of it.

        Raises:
            StoreError: it cannot be created or written, or lies on several file systems.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._make_folders()
            apart = [folder.name for folder in self._moved_between if mount_of(folder) != mount_of(self.root)]
        except OSError as failure:
            raise StoreError(
                f"cannot use {self.root} as the store: {failure}", hint="choose another with --store"
            ) from failure
        if apart:
            raise StoreError(
                f"{', '.join(apart)} of the store {self.root} lies on another file system: nothing could be kept there",
                hint="put the whole store on one disk, and name it with --store",
            )

    @property
    def _moved_between(self) -> tuple[Path, ...]:
        """The folders between which things move by one rename, which no other disk or mount may lie between."""
        return (
            self.stages,
            self.artifacts.folder,
            self.wheels.folder,
            self.runs.folder,
            self.failures,
            self.attempts,
            self.resumable,
        )

    def check_there(self) -> None:
        """Hold the folder against the one that was there when it was taken into use.

        Raises:
            HostFault: it was taken away, whatever lies there now.
        """
        if self._held is not None and self._held != _identity(self.root):
            raise gone(f"the store {self.root} was taken away while it was in use")

    def _make_folders(self) -> None:
        """Create what is missing below the root, and never a root in place of one that is gone."""
        self.check_there()
        for folder in (*self._moved_between, self.artifacts.blocks, self.locks):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Held by everything that adds; `orchestrator clean` needs the store without it. Raises as `make` does."""
        self.make()
        with ExitStack() as held:
            try:
                held.enter_context(locks.hold(self.locks / "store", shared=True))
                self._held = _identity(self.root)
            except OSError as failure:
                raise StoreError(
                    f"nothing can be written into the store {self.root}: {failure}",
                    hint="make it writable, or choose another with --store; `status`, `score` and `report` only read",
                ) from failure
            yield

    def claim(self, key: Sha256) -> AbstractContextManager[bool]:
        """Be the only one who works on `key`; yields False where somebody does so already."""
        return locks.attempt(self.locks / key)

    def read(self, key: Sha256) -> StageRecord | None:
        """The finished stage with this key, whether its artifact is at hand or not; None when there is none.

        Raises:
            Unreadable: what is stored is damaged, or of a version that this program does not know.
        """
        folder = self.stages / key
        seen = _seen(folder)
        if seen is not None and (kept := self._kept.get(key)) is not None and kept[0] == seen:
            return kept[1]
        if seen is None and not folder.is_dir():
            return None
        return versioned.read(f"{self.stages.name}/{key}", lambda: _stage(folder, key))

    def read_to_keep(self, keys: Iterable[Sha256]) -> Iterator[StageRecord | Unreadable | None]:
        """As `read`, of each key; an `Unreadable` is given in its place.

        From then on `read` gives these as long as their files stay as they are, in place of others that were kept.
        """
        kept: dict[Sha256, tuple[_Seen, StageRecord]] = {}
        for key in keys:
            seen = _seen(self.stages / key)
            try:
                record = self.read(key)
            except Unreadable as unreadable:
                yield unreadable
                continue
            if seen is not None and record is not None:
                kept[key] = seen, record
            yield record
        self._kept = kept

    def find(self, key: Sha256) -> StageRecord | None:
        """The finished stage with this key with all that others read of it; None where it has to be run."""
        try:
            record = self.read(key)
            if record is not None:
                self.outcomes.of(record)
        except Unreadable:
            return None
        return record if record is not None and self.has_artifact(record) else None

    def has_artifact(self, record: StageRecord) -> bool:
        """Whether what the stage made for others is there, if it made anything; by names and sizes."""
        digest, descriptor = record.provenance.artifact, record.artifact
        return digest is None or descriptor is None or self.artifacts.has(digest, descriptor)

    def results_of(self, stages: Collection[str]) -> Iterator[Provenance]:
        """How each stored result of these stages, by their ids, came to be. What cannot be read is left out."""
        for path in self.stages.glob(f"*/{PROVENANCE_NAME}"):
            with suppress(OSError, ValueError, Unreadable):
                is_asked_for = versioned.parse(read_regular(path)).get("stage") in stages
                if is_asked_for and (record := self.read(path.parent.name)) is not None:
                    yield record.provenance

    @contextmanager
    def attempt(self, key: Sha256) -> Iterator[Path]:
        """A folder for one try, removed at the end unless it was moved.

        Its output folder holds nothing but what an earlier, unfinished try left to go on from, and whatever this one
        leaves is kept for the next. The caller has claimed `key`: of a slice, that of the evaluation of all items.

        Raises:
            HostFault: the store was taken away.
            OSError: a folder cannot be made, moved or removed.
        """
        self._make_folders()
        folder = self.attempts / f"{key}@{secrets.token_hex(4)}@{Owner.current().token}"
        folder.mkdir()
        (folder / OUTPUT_NAME).mkdir()
        if is_usual(self.resumable / key):
            (self.resumable / key).rename(folder / OUTPUT_NAME / RESUME_NAME)
        try:
            yield folder
        finally:
            self.rescue(folder)
            remove_if_there(folder)

    def rescue(self, attempt: Path) -> None:
        """Keep what an attempt left for others to go on from, if it is nothing but files in folders."""
        key = attempt.name.partition("@")[0]
        left = attempt / OUTPUT_NAME / RESUME_NAME
        if is_usual(left):
            remove_if_there(self.resumable / key)
            left.rename(self.resumable / key)

    def commit(
        self,
        attempt: Path,
        final: ResultEvent,
        provenance: Provenance,
        cancel: threading.Event | None = None,
        poll: Poll = never,
        inspect: Callable[[Path, Descriptor], None] = lambda folder, descriptor: None,
    ) -> StageRecord:
        """Keep a successful attempt. The rename of its folder is the moment at which the result exists.

        A result that is known already, and whose artifact came out the same again, stays as it is: runs refer to it.
        `poll` is called while the artifact is hashed, `inspect` when it was, with its folder: what it raises keeps it
        from being published.

        Raises:
            BadArtifact: the artifact differs from its descriptor.
            Interrupted: `cancel` was set while waiting for who reads a damaged artifact that this one replaces.
        """
        output, descriptor = attempt / OUTPUT_NAME, described(final)
        digest = None if descriptor is None else descriptor.digest
        take(output, final)
        if descriptor is not None:
            blocks = check_new(output / ARTIFACT_NAME, descriptor, poll)
            inspect(output / ARTIFACT_NAME, descriptor)
            self.artifacts.publish(output / ARTIFACT_NAME, descriptor, blocks, cancel, poll)
        remove_if_there(self.failures / provenance.key)
        if digest is not None and (known := self.find(provenance.key)) and known.provenance.artifact == digest:
            return known
        (output / RESULT_NAME).replace(attempt / RESULT_NAME)
        kept = provenance.model_copy(update={"artifact": digest, "files": _files(attempt, final)})
        write_atomically(attempt / PROVENANCE_NAME, json.dumps(versioned.sealed(kept.model_dump(mode="json"))))
        target = self.stages / provenance.key
        if target.exists():
            remove(target)
        attempt.rename(target)
        sync_folder(self.stages)
        return StageRecord(provenance=kept, final=final)

    def keep_failure(self, attempt: Path, key: Sha256) -> str:
        """Keep a failed attempt's request, events and stderr, without its output; returns where, within the store."""
        target = self.failures / key
        self.rescue(attempt)
        remove_if_there(attempt / OUTPUT_NAME)
        remove_if_there(target)
        attempt.rename(target)
        return target.relative_to(self.root).as_posix()


def _seen(folder: Path) -> _Seen | None:
    """None where a file is missing."""
    try:
        found = [os.lstat(f"{folder}/{name}") for name in (PROVENANCE_NAME, RESULT_NAME)]
    except OSError:
        return None
    return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)


def _stage(folder: Path, key: Sha256) -> StageRecord:
    """A stored stage; raises what `versioned.read` makes a reason of."""
    stored = parse_provenance(read_regular(folder / PROVENANCE_NAME))
    result = read_regular(folder / RESULT_NAME)
    document = {"provenance": versioned.unsealed(stored, digest_of_provenance), "final": versioned.parse(result)}
    if (version := stored.get(versioned.VERSION)) is not None:
        document[versioned.VERSION] = version
    current = versioned.upgraded(document, STAGE_UPGRADES, STAGE_VERSION)
    kept = {**current["provenance"], versioned.VERSION: STAGE_VERSION}
    provenance = Provenance.model_validate(kept, extra="ignore")
    written = provenance.files.get(RESULT_NAME)
    if written is not None and written.sha256 != hashlib.sha256(result).hexdigest():
        raise ValueError(f"{RESULT_NAME} is not what was written: it has another sha256")
    if provenance.key != key:
        raise ValueError(f"it is the result of {provenance.key}")
    return StageRecord(provenance=provenance, final=ResultEvent.model_validate(current["final"], extra="ignore"))


def _files(attempt: Path, final: ResultEvent) -> dict[str, FileEntry]:
    """The files that the result is read from later."""
    names = [RESULT_NAME, *(f"{OUTPUT_NAME}/{name}" for name in outcomes_names(final))]
    paths = {name: attempt / name for name in names}
    return {
        name: FileEntry(size_bytes=path.stat().st_size, sha256=digest_file(path))
        for name, path in paths.items()
        if path.is_file() and not path.is_symlink()
    }


def _identity(root: Path) -> tuple[int, ...] | None:
    """What stays the same of a folder as long as it is the same one; None where there is none."""
    try:
        found = root.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
