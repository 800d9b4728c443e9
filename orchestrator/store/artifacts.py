"""Artifacts by digest: kept, read, discarded; and whether a folder is the one that its descriptor describes."""

import json
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from harness.contract import (
    CODE_SUFFIXES,
    DESCRIPTOR_NAME,
    PICKLE_SUFFIXES,
    CheckpointDescriptor,
    DatasetDescriptor,
    Descriptor,
    FileEntry,
    Frozen,
    Sha256,
    StatesDescriptor,
    UnsafeTree,
    canonical_json,
    list_tree,
    read_regular,
)
from orchestrator.documents import first_difference, why_invalid
from orchestrator.errors import StoreError
from orchestrator.host import hashing, locks
from orchestrator.host.files import PUBLISHED, owned, remove, sync_folder, write_atomically
from orchestrator.host.hashing import Poll, Span, blocks_of, digests, never
from orchestrator.host.locks import Interests
from orchestrator.store import versioned

_ROWS_SUFFIX, _TENSORS_SUFFIX = ".jsonl.gz", ".safetensors"
_CONFIGURATION, _NAMES_CODE = "config.json", "auto_map"
_DESCRIPTOR: TypeAdapter[Descriptor] = TypeAdapter(Descriptor)


class BadArtifact(Exception):
    """An artifact is not what its descriptor says; the message names the field or the file."""


class BlockDigests(Frozen):
    """sha256 of the blocks of an artifact's large files, by name, as they were when it was published."""

    block_bytes: NonNegativeInt
    files: dict[str, tuple[Sha256, ...]]


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


def check_published(
    folder: Path, descriptor: Descriptor, *, blocks: BlockDigests | None = None, poll: Poll = never
) -> None:
    """Hold every byte of a published artifact against its descriptor; large files by `blocks`, where these are known.

    Raises:
        BadArtifact: it is not what `descriptor` says.
    """
    _check_descriptor(folder, descriptor)
    paths = _check_names(folder, descriptor.files)
    spans: dict[Span, tuple[str, str]] = {}
    for name, path in paths.items():
        entry = descriptor.files[name]
        parts = blocks_of(path, entry.size_bytes)
        known = blocks.files.get(name, ()) if blocks is not None and blocks.block_bytes == hashing.BLOCK_BYTES else ()
        if parts and len(parts) == len(known):
            spans |= {span: (name, digest) for span, digest in zip(parts, known, strict=True)}
        else:
            spans[Span(path)] = (name, entry.sha256)
    _compare(spans, poll)


def check_new(folder: Path, descriptor: Descriptor, poll: Poll = never) -> BlockDigests:
    """Hash what a worker left: a result is trusted no further than its bytes. Returns the digests of its blocks.

    Raises:
        BadArtifact: it is not what `descriptor` says.
    """
    _check_descriptor(folder, descriptor)
    paths = _check_names(folder, descriptor.files)
    _refuse_what_runs(folder, descriptor)
    blocks = {name: blocks_of(path, descriptor.files[name].size_bytes) for name, path in paths.items()}
    whole = {Span(path): (name, descriptor.files[name].sha256) for name, path in paths.items()}
    found = _compare(whole, poll, beside=[span for parts in blocks.values() for span in parts])
    of_blocks = {name: tuple(found[span] for span in parts) for name, parts in blocks.items() if parts}
    return BlockDigests(block_bytes=hashing.BLOCK_BYTES, files=of_blocks)


def read_descriptor(folder: Path) -> Descriptor:
    """What an artifact says of itself.

    Raises:
        BadArtifact: it says nothing that can be understood.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise BadArtifact("it is no folder")
    path = folder / DESCRIPTOR_NAME
    if path.is_symlink() or not path.is_file():
        raise BadArtifact(f"it has no {DESCRIPTOR_NAME}")
    try:
        text = read_regular(path)
        return _DESCRIPTOR.validate_json(text)
    except OSError as unreadable:
        raise BadArtifact(f"{DESCRIPTOR_NAME} cannot be read: {unreadable}") from unreadable
    except ValidationError as invalid:
        raise BadArtifact(f"{DESCRIPTOR_NAME} is no descriptor: {why_invalid(invalid, text)}") from invalid


def _check_descriptor(folder: Path, descriptor: Descriptor) -> None:
    written = read_descriptor(folder)
    if difference := first_difference(written, descriptor):
        raise BadArtifact(f"{DESCRIPTOR_NAME} differs from the descriptor in the result: {difference}")


def _check_names(folder: Path, described: Mapping[str, FileEntry]) -> dict[str, Path]:
    """The files by name, once each was found with its size: what needs no reading comes first."""
    try:
        paths = {name: path for name, path in list_tree(folder) if name != DESCRIPTOR_NAME}
        sizes = {name: path.stat().st_size for name, path in paths.items()}
    except (UnsafeTree, OSError) as unsafe:
        raise BadArtifact(f"the artifact cannot be read: {unsafe}") from unsafe
    for name in sorted(paths.keys() | described.keys()):
        if name not in paths:
            raise BadArtifact(f"{name} is described but missing")
        if name not in described:
            raise BadArtifact(f"{name} is there but not described")
        if sizes[name] != described[name].size_bytes:
            raise BadArtifact(f"{name} has {sizes[name]} bytes, and {described[name].size_bytes} are described")
    return paths


def _refuse_what_runs(folder: Path, descriptor: Descriptor) -> None:
    """A checkpoint is safetensors, its configuration and its tokenizer; a data set is rows, states are safetensors."""
    if not descriptor.files:
        raise BadArtifact("it holds no file")
    for name in descriptor.files:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in PICKLE_SUFFIXES or suffix in CODE_SUFFIXES:
            raise BadArtifact(f"{name} can run code when it is loaded, which no artifact may hold")
        if isinstance(descriptor, DatasetDescriptor) and not name.endswith(_ROWS_SUFFIX):
            raise BadArtifact(f"{name} is not <split>{_ROWS_SUFFIX}, which is all that a data set holds")
        if isinstance(descriptor, StatesDescriptor) and suffix != _TENSORS_SUFFIX:
            raise BadArtifact(f"{name} is no safetensors file, and these are all that a model's states hold")
        if name.endswith(_CONFIGURATION) and isinstance(descriptor, CheckpointDescriptor):
            _refuse_named_code(folder / name, name)


def _refuse_named_code(path: Path, name: str) -> None:
    try:
        document = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as broken:
        raise BadArtifact(f"{name} cannot be read as JSON: {broken}") from broken
    if isinstance(document, dict) and _NAMES_CODE in document:
        raise BadArtifact(f"{name} names code to load with the model ({_NAMES_CODE}), which no artifact may")


def _compare(spans: Mapping[Span, tuple[str, str]], poll: Poll, beside: list[Span] | None = None) -> Mapping[Span, str]:
    """Hash `spans`, each with its file's name and digest, and those `beside` them; the first that differs is named."""
    try:
        found = digests([*spans, *(beside or [])], poll)
    except OSError as failure:
        raise BadArtifact(f"the artifact cannot be read: {failure}") from failure
    for span, (name, digest) in spans.items():
        if found[span] != digest:
            raise BadArtifact(f"{name} has another sha256 than described")
    return found
