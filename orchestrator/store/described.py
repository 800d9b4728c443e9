"""Whether a folder is the artifact that its descriptor describes: every name, size and byte, and nothing that runs."""

import json
from collections.abc import Mapping
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
    list_tree,
    read_regular,
)
from orchestrator.documents import first_difference, why_invalid
from orchestrator.host import hashing
from orchestrator.host.hashing import Poll, Span, blocks_of, digests, never

_ROWS_SUFFIX, _TENSORS_SUFFIX = ".jsonl.gz", ".safetensors"
_CONFIGURATION, _NAMES_CODE = "config.json", "auto_map"
_DESCRIPTOR: TypeAdapter[Descriptor] = TypeAdapter(Descriptor)


class BadArtifact(Exception):
    """An artifact is not what its descriptor says; the message names the field or the file."""


class BlockDigests(Frozen):
    """sha256 of the blocks of an artifact's large files, by name, as they were when it was published."""

    block_bytes: NonNegativeInt
    files: dict[str, tuple[Sha256, ...]]


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
