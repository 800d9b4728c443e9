"""Artifacts by digest: kept, read, dropped after their last reader, discarded where they are damaged."""

import json
import stat
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.contract import DESCRIPTOR_NAME, Descriptor, Sha256, canonical_json, read_regular
from orchestrator.errors import StoreError
from orchestrator.host import locks
from orchestrator.host.files import PUBLISHED, owned, remove, sync_folder, write_atomically
from orchestrator.host.hashing import Poll, never
from orchestrator.host.locks import Interests
from orchestrator.store import versioned
from orchestrator.store.described import BadArtifact, BlockDigests, check_published


class Artifacts:
    """The artifacts of a store by their digests, published by one rename and never changed.

    `blocks` holds the digests of the blocks of their large files, `passing` a mark of each that goes after its last
    reader, whichever run that belongs to, and `locks` who reads which.
    """

    def __init__(self, folder: Path, blocks: Path, passing: Path, locks: Path) -> None:
        self.folder, self.blocks, self.passing, self._locks = folder, blocks, passing, locks
        self._wanted = Interests(locks / "wanted")

    def path(self, digest: Sha256) -> Path:
        """Where the artifact with this digest lies."""
        return self.folder / digest

    def has(self, digest: Sha256, descriptor: Descriptor) -> bool:
        """Whether it is there, by names and sizes."""
        try:
            found = [((self.path(digest) / name).lstat(), entry) for name, entry in descriptor.files.items()]
        except OSError:
            return False
        return all(stat.S_ISREG(status.st_mode) and status.st_size == entry.size_bytes for status, entry in found)

    def check(self, digest: Sha256, descriptor: Descriptor, poll: Poll = never) -> None:
        """Hold every byte of an artifact against its digests; a large file by those of its blocks, where they are kept.

        Raises:
            BadArtifact: it is damaged, or not there.
        """
        check_published(self.path(digest), descriptor, blocks=self._blocks_of(digest), poll=poll)

    @contextmanager
    def reading(self, digests: Collection[Sha256], cancel: threading.Event) -> Iterator[None]:
        """Keep these artifacts from being discarded meanwhile.

        Raises:
            StoreError: one is not there.
            Interrupted: `cancel` was set while waiting for somebody who discards one.
        """
        with ExitStack() as held:
            for digest in sorted(set(digests)):
                held.enter_context(locks.hold(self._reading_lock(digest), shared=True, cancel=cancel))
                if not self.path(digest).is_dir():
                    raise StoreError(
                        f"artifact {digest[:12]} was discarded meanwhile, since it was damaged",
                        hint="run the same command again, which makes it again",
                    )
            yield

    def want(self, digest: Sha256) -> None:
        """Keep others from dropping the artifact, there or not, until this object drops it or is closed.

        Raises:
            OSError: the store cannot be written.
        """
        self._wanted.share(digest)

    def close(self) -> None:
        """Want nothing any more."""
        self._wanted.close()

    def mark_passing(self, digest: Sha256) -> None:
        """Note that an artifact, there or about to be, goes after its last reader. Raises OSError."""
        self.passing.mkdir(exist_ok=True)
        (self.passing / digest).touch()

    def is_passing(self, digest: Sha256) -> bool:
        """Whether it goes after its last reader; one that a run keeps does not."""
        return (self.passing / digest).exists()

    def keep(self, digest: Sha256) -> None:
        """Keep an artifact beyond its last reader. Raises OSError."""
        (self.passing / digest).unlink(missing_ok=True)

    def drop(self, digest: Sha256) -> int | None:
        """Remove an artifact that passes, and return how many bytes that freed; None where somebody else reads or
        wants it.

        Of several who drop it at once the last to want it removes it: each wants it no more before it looks who does.

        Raises:
            OSError: it cannot be removed.
        """
        self._wanted.forget(digest)
        try:
            if not self._wanted.alone(digest):
                return None
            with locks.attempt(self._reading_lock(digest)) as unread:
                if not unread:
                    return None
                if not self.is_passing(digest):
                    return 0
                freed = remove(self.path(digest)) if self.path(digest).exists() else 0
                self.keep(digest)  # last: a mark that an interruption leaves is of use, an artifact without it is not
                return freed
        finally:
            self._wanted.forget(digest)

    def discard(
        self,
        digest: Sha256,
        descriptor: Descriptor,
        cancel: threading.Event | None,
        on_wait: Callable[[], None] | None = None,
        poll: Poll = never,
    ) -> None:
        """Remove a damaged artifact once nobody reads it. One that is whole by then, made again by others, stays.

        Raises:
            StoreError: it cannot be removed.
            Interrupted: `cancel` was set while waiting for who reads it.
        """
        with locks.hold(self._reading_lock(digest), cancel=cancel, on_wait=on_wait):
            try:
                self.check(digest, descriptor, poll)
            except BadArtifact as bad:
                if self.path(digest).exists():
                    self._remove(digest, bad)

    def _remove(self, digest: Sha256, why: BadArtifact) -> None:
        try:
            remove(self.path(digest))
        except OSError as failure:
            raise StoreError(
                f"artifacts/{digest} is damaged ({why}) and cannot be removed: {failure}",
                hint="run as who owns the store, or remove that folder",
            ) from failure

    def _reading_lock(self, digest: Sha256) -> Path:
        return self._locks / f"reading-{digest}"

    def _blocks_path(self, digest: Sha256) -> Path:
        return self.blocks / f"{digest}.json"

    def _blocks_of(self, digest: Sha256) -> BlockDigests | None:
        """The digests of the blocks; None where none are kept, or they are damaged: files have their own as well."""
        try:
            stored = versioned.unsealed(versioned.parse(read_regular(self._blocks_path(digest))))
            return BlockDigests.model_validate(stored)
        except (OSError, ValueError):
            return None

    def publish(
        self,
        folder: Path,
        descriptor: Descriptor,
        blocks: BlockDigests,
        cancel: threading.Event | None,
        poll: Poll,
    ) -> None:
        """Move what was taken of a worker's output to its address. What lies there already stays if it is whole."""
        canonical = canonical_json(descriptor.model_dump(mode="json"))
        if read_regular(folder / DESCRIPTOR_NAME) != canonical:  # the same values, in another image's way of writing
            write_atomically(folder / DESCRIPTOR_NAME, canonical)
            owned(folder / DESCRIPTOR_NAME, PUBLISHED)
        digest = descriptor.digest
        target = self.path(digest)
        if blocks.files:
            document = json.dumps(versioned.sealed(blocks.model_dump(mode="json")))
            write_atomically(self._blocks_path(digest), document)
        with locks.hold(self._locks / f"artifact-{digest}"):
            if target.exists():
                self.discard(digest, descriptor, cancel, poll=poll)
            if target.exists():
                remove(folder)
                return
            folder.rename(target)
        sync_folder(self.folder)
