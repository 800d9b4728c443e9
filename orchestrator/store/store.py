"""The store: results by stage key, artifacts by digest, runs by name. Everything in it appears by one rename.

Layout: `stages/<key>/`, `artifacts/<digest>/`, `runs/<run>/`, `failures/<key>/` (the last failed attempt),
`attempts/<key>@<random>@<owner>/` (work in flight), `resume/<key>/` (what unfinished work left to go on from) and
`locks/`.
"""

import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from harness.contract import (
    ARTIFACT_NAME,
    DESCRIPTOR_NAME,
    RESULT_NAME,
    RESUME_NAME,
    CheckpointDescriptor,
    DatasetDescriptor,
    Descriptor,
    ResultEvent,
    Sha256,
    UnsafeTree,
    canonical_json,
    describe_tree,
)
from orchestrator.documents import first_difference, why_invalid
from orchestrator.errors import StoreError
from orchestrator.host import locks
from orchestrator.host.files import protect, sync_folder, write_atomically
from orchestrator.host.owner import Owner
from orchestrator.stages import OUTPUT_NAME
from orchestrator.store.records import Provenance, RunRecord, StageRecord

PROVENANCE_NAME = "provenance.json"
RUN_NAME = "run.json"
_DESCRIPTOR: TypeAdapter[CheckpointDescriptor | DatasetDescriptor] = TypeAdapter(Descriptor)


class BadArtifact(Exception):
    """What a worker left as its artifact is not what it said it made."""


class Store:
    """Opens, and where needed creates, a store.

    Raises:
        StoreError: the folder cannot be created or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.stages = self.root / "stages"
        self.artifacts = self.root / "artifacts"
        self.runs = self.root / "runs"
        self.failures = self.root / "failures"
        self.attempts = self.root / "attempts"
        self.resumable = self.root / "resume"
        self.locks = self.root / "locks"
        folders = (self.stages, self.artifacts, self.runs, self.failures, self.attempts, self.resumable, self.locks)
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as failure:
            raise StoreError(f"cannot use {root} as the store: {failure}", hint="choose another with --store") from (
                failure
            )

    def in_use(self) -> AbstractContextManager[None]:
        """Held by everything that reads or adds; `orchestrator clean` needs the store without it."""
        return locks.hold(self.locks / "store", shared=True)

    def claim(
        self, key: Sha256, cancel: threading.Event, on_wait: Callable[[], None] | None = None
    ) -> AbstractContextManager[None]:
        """Be the only one who works on `key`, waiting for whoever does now. `on_wait`: see `locks.hold`."""
        return locks.hold(self.locks / key, cancel=cancel, on_wait=on_wait)

    def find(self, key: Sha256) -> StageRecord | None:
        """The finished stage with this key, None when there is none or its artifact is gone.

        Raises:
            StoreError: the stored documents are damaged.
        """
        folder = self.stages / key
        if not folder.is_dir():
            return None
        try:
            record = StageRecord(
                provenance=Provenance.model_validate_json((folder / PROVENANCE_NAME).read_bytes()),
                final=ResultEvent.model_validate_json((folder / RESULT_NAME).read_bytes()),
            )
        except (OSError, ValidationError) as damaged:
            raise StoreError(
                f"the stored result {folder} is damaged: {damaged}", hint="delete that folder; the stage will run again"
            ) from damaged
        if record.artifact is not None and not self._is_whole(record.artifact):
            return None
        return record

    def artifact(self, digest: Sha256) -> Path:
        """Where the artifact with this digest lies."""
        return self.artifacts / digest

    @contextmanager
    def attempt(self, key: Sha256) -> Iterator[Path]:
        """A folder for one try, removed at the end unless it was moved.

        Its output folder holds nothing but what an earlier, unfinished try left to go on from, and whatever this one
        leaves is kept for the next. The caller has claimed `key`.
        """
        folder = self.attempts / f"{key}@{secrets.token_hex(4)}@{Owner.current().token}"
        (folder / OUTPUT_NAME).mkdir(parents=True)
        if (self.resumable / key).is_dir():
            (self.resumable / key).rename(folder / OUTPUT_NAME / RESUME_NAME)
        try:
            yield folder
        finally:
            self.rescue(folder, key)
            shutil.rmtree(folder, ignore_errors=True)

    def rescue(self, attempt: Path, key: Sha256) -> None:
        """Keep what an attempt that came to no result left to go on from, if there is any."""
        left = attempt / OUTPUT_NAME / RESUME_NAME
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(self.resumable / key, ignore_errors=True)
            left.rename(self.resumable / key)

    def commit(self, attempt: Path, final: ResultEvent, provenance: Provenance) -> StageRecord:
        """Keep a successful attempt. The rename of its folder is the moment at which the result exists.

        Raises:
            BadArtifact: the artifact differs from its descriptor.
        """
        record = StageRecord(provenance=provenance, final=final)
        output = attempt / OUTPUT_NAME
        if record.artifact is not None:
            self._publish(output / ARTIFACT_NAME, record.artifact)
        shutil.rmtree(output / RESUME_NAME, ignore_errors=True)
        (output / RESULT_NAME).replace(attempt / RESULT_NAME)
        write_atomically(attempt / PROVENANCE_NAME, provenance.model_dump_json())
        target = self.stages / provenance.key
        if target.exists():
            shutil.rmtree(target)
        attempt.rename(target)
        sync_folder(self.stages)
        shutil.rmtree(self.failures / provenance.key, ignore_errors=True)
        return record

    def keep_failure(self, attempt: Path, key: Sha256) -> str:
        """Keep a failed attempt's request, events and stderr, without its output; returns where, within the store."""
        target = self.failures / key
        self.rescue(attempt, key)
        shutil.rmtree(attempt / OUTPUT_NAME, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        attempt.rename(target)
        return target.relative_to(self.root).as_posix()

    def save_run(self, record: RunRecord) -> None:
        folder = self.runs / record.run
        folder.mkdir(exist_ok=True)
        write_atomically(folder / RUN_NAME, record.model_dump_json(indent=1))

    def load_run(self, name: str) -> RunRecord:
        """A run by its name, an unambiguous beginning of it, or `last`.

        Raises:
            StoreError: there is none, or several begin so.
        """
        names = self.run_names()
        if name == "last" and names:
            found = [max(names, key=lambda one: (self.runs / one / RUN_NAME).stat().st_mtime_ns)]
        else:
            found = [one for one in names if one == name] or [one for one in names if one.startswith(name)]
        if len(found) != 1:
            problem = f"{len(found)} runs begin with {name!r}" if found else f"there is no run {name!r}"
            raise StoreError(f"{problem} in {self.root}", hint=f"runs: {', '.join(names) or 'none yet'}")
        try:
            return RunRecord.model_validate_json((self.runs / found[0] / RUN_NAME).read_bytes())
        except (OSError, ValidationError) as damaged:
            raise StoreError(
                f"the record of run {found[0]} is not readable: {damaged}", hint="run its manifest again"
            ) from damaged

    def run_names(self) -> list[str]:
        return sorted(path.parent.name for path in self.runs.glob(f"*/{RUN_NAME}"))

    def _is_whole(self, descriptor: Descriptor) -> bool:
        folder = self.artifact(descriptor.digest)
        return all(
            (folder / name).is_file() and (folder / name).stat().st_size == entry.size_bytes
            for name, entry in descriptor.files.items()
        )

    def _publish(self, folder: Path, descriptor: Descriptor) -> None:
        check_artifact(folder, descriptor)
        canonical = canonical_json(descriptor.model_dump(mode="json"))
        if (folder / DESCRIPTOR_NAME).read_bytes() != canonical:  # the same values, in another image's way of writing
            write_atomically(folder / DESCRIPTOR_NAME, canonical)
        protect(folder)
        target = self.artifact(descriptor.digest)
        with locks.hold(self.locks / f"artifact-{descriptor.digest}"):
            if self._is_whole(descriptor):
                return
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
        sync_folder(self.artifacts)


def check_artifact(folder: Path, descriptor: Descriptor) -> None:
    """Hash what the worker left: a result is trusted no further than its bytes.

    Raises:
        BadArtifact: it is not what `descriptor` says; the message names the field or the file.
    """
    try:
        found = describe_tree(folder, leave_out=frozenset({DESCRIPTOR_NAME}))
        text = (folder / DESCRIPTOR_NAME).read_bytes()
        written = _DESCRIPTOR.validate_json(text)
    except (UnsafeTree, OSError) as unsafe:
        raise BadArtifact(f"the artifact cannot be read: {unsafe}") from unsafe
    except ValidationError as invalid:
        raise BadArtifact(f"{DESCRIPTOR_NAME} is no descriptor: {why_invalid(invalid, text)}") from invalid
    if difference := first_difference(written, descriptor):
        raise BadArtifact(f"{DESCRIPTOR_NAME} differs from the descriptor in the result: {difference}")
    for name in sorted(found.keys() | descriptor.files.keys()):
        if name not in found:
            raise BadArtifact(f"{name} is described but missing")
        if name not in descriptor.files:
            raise BadArtifact(f"{name} is there but not described")
        if found[name] != descriptor.files[name]:
            raise BadArtifact(f"{name} has another size or sha256 than described")
