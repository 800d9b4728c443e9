"""Published artifacts: folders that `llmcbench.json` describes completely, checked on opening, made by one rename."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from harness.checkpoint.layout import list_files, read_config, read_tensors, refuse_pickles
from harness.contract import (
    DESCRIPTOR_NAME,
    CheckpointDescriptor,
    DatasetDescriptor,
    Descriptor,
    FileEntry,
    StatesDescriptor,
    UnsafeTree,
    canonical_json,
    describe_tree,
    digest_file,
)
from harness.errors import BadCheckpoint, BadRequest

_DESCRIPTOR: TypeAdapter[Descriptor] = TypeAdapter(Descriptor)
_FILE_MODE = 0o644
_OUTPUT_EMBEDDING = "lm_head.weight"
_INPUT_EMBEDDING = "embed_tokens.weight"
_SURROGATE = "\\ud"
"""How JSON begins the escape of half a character; that of a whole one has two."""
_AGAIN = "fetch or compress it again; a published artifact is never changed by hand"

Made = TypeVar("Made", bound=Descriptor)


def open_checkpoint(folder: Path, *, verify: bool = False) -> CheckpointDescriptor:
    """The descriptor of a published checkpoint, once the folder was found to be what it says; sha256 when `verify`.

    Raises:
        BadCheckpoint: a file is missing, added, altered, linked, truncated or a pickle.
    """
    descriptor = _read_descriptor(folder)
    if not isinstance(descriptor, CheckpointDescriptor):
        raise BadCheckpoint(
            f"{folder} is {_what(descriptor)}, not a checkpoint", hint="name a checkpoint as this input"
        )
    _compare(folder, descriptor.files, verify=verify)
    refuse_pickles(folder, descriptor.files)
    _check_layout(folder)
    return descriptor


def open_dataset(folder: Path, *, verify: bool = False) -> DatasetDescriptor:
    """The descriptor of a published data set, once the folder was found to be what it says; sha256 when `verify`.

    Raises:
        BadCheckpoint: a file is missing, added, altered or linked.
    """
    descriptor = _read_descriptor(folder)
    if not isinstance(descriptor, DatasetDescriptor):
        raise BadCheckpoint(f"{folder} is {_what(descriptor)}, not a data set", hint="name a data set as this input")
    _compare(folder, descriptor.files, verify=verify)
    return descriptor


def open_states(folder: Path, *, verify: bool = False) -> StatesDescriptor:
    """The descriptor of a dense model's published states, once the folder was found to be what it says.

    Raises:
        BadCheckpoint: a file is missing, added, altered or linked.
    """
    descriptor = _read_descriptor(folder)
    if not isinstance(descriptor, StatesDescriptor):
        raise BadCheckpoint(
            f"{folder} is {_what(descriptor)}, not a model's states", hint="name what `states` made as this input"
        )
    _compare(folder, descriptor.files, verify=verify)
    return descriptor


def _what(descriptor: Descriptor) -> str:
    words = {"checkpoint": "a checkpoint", "dataset": "a data set", "states": "a model's states"}
    return words[descriptor.artifact]


def publish(staging: Path, destination: Path, make: Callable[[dict[str, FileEntry]], Made]) -> Made:
    """Describe what `staging` holds, write the descriptor beside it, and rename the folder to `destination`.

    Both must lie on one file system. What `open_checkpoint` would refuse is refused here, before it is published.

    Raises:
        BadCheckpoint: the folder holds a link, a pickle, or weights that cannot be read.
        BadRequest: `destination` exists already.
    """
    if destination.exists():
        raise BadRequest(f"{destination} exists already", hint="give the request an empty output folder")
    try:
        files = describe_tree(staging, leave_out=frozenset({DESCRIPTOR_NAME}))
    except UnsafeTree as unsafe:
        raise BadCheckpoint(f"not published: {unsafe}", hint="write plain files only") from unsafe
    descriptor = make(files)
    if isinstance(descriptor, CheckpointDescriptor):
        refuse_pickles(staging, files)
        _check_layout(staging)
    (staging / DESCRIPTOR_NAME).write_bytes(canonical_json(descriptor.model_dump(mode="json")))
    for name in (*files, DESCRIPTOR_NAME):
        (staging / name).chmod(_FILE_MODE)
        _sync(staging / name)
    _sync(staging)
    staging.rename(destination)
    _sync(destination.parent)
    return descriptor


def read_rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """The rows of one split of a published data set, in order.

    Raises:
        BadCheckpoint: the data set does not have this split, its file cannot be read, or a row holds text that is no
            UTF-8: fetch publishes none, other writers may.
    """
    path = folder / f"{split}.jsonl.gz"
    if not path.is_file():
        has = ", ".join(sorted(found.name.removesuffix(".jsonl.gz") for found in folder.glob("*.jsonl.gz"))) or "none"
        raise BadCheckpoint(
            f"{folder} has no split {split!r}; it has: {has}", hint="fetch the data set from a source that has it"
        )
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [_row(line, place, path) for place, line in enumerate(file)]
    except (OSError, EOFError, ValueError) as broken:
        raise BadCheckpoint(f"{path} cannot be read: {broken}", hint=_AGAIN) from broken


def _row(line: str, place: int, path: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line)
    if _SURROGATE in line.lower():
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as lone:
            raise BadCheckpoint(
                f"row {place} (counted from 0) of {path} holds half of a surrogate pair, which is no text", hint=_AGAIN
            ) from lone
    return row


def _read_descriptor(folder: Path) -> Descriptor:
    path = folder / DESCRIPTOR_NAME
    if not path.is_file() or path.is_symlink():
        raise BadCheckpoint(
            f"{folder} has no {DESCRIPTOR_NAME}", hint="a model from elsewhere enters through fetch: write `dir:PATH`"
        )
    try:
        return _DESCRIPTOR.validate_json(path.read_bytes())
    except ValidationError as invalid:
        raise BadCheckpoint(f"{path} is not a valid descriptor: {invalid}", hint=_AGAIN) from invalid


def _check_layout(folder: Path) -> None:
    """Config and headers are readable, and an output embedding that is tied is not stored beside the other one.

    Fetch has seen to the latter, which readers disagree on; other images may write what they like.
    """
    tied = read_config(folder).get("tie_word_embeddings") is True
    tensors = read_tensors(folder)
    if tied and _OUTPUT_EMBEDDING in tensors and any(name.endswith(_INPUT_EMBEDDING) for name in tensors):
        raise BadCheckpoint(
            f"{folder}: {_OUTPUT_EMBEDDING} is stored although config.json ties it to the input embedding",
            hint="leave it out, or set tie_word_embeddings to false; readers do not agree on which counts",
        )


def _compare(folder: Path, listed: dict[str, FileEntry], *, verify: bool) -> None:
    sizes = list_files(folder)
    del sizes[DESCRIPTOR_NAME]
    for name, entry in listed.items():
        if name not in sizes:
            raise BadCheckpoint(f"{folder}: {name} is missing", hint=_AGAIN)
        if sizes[name] != entry.size_bytes:
            raise BadCheckpoint(
                f"{folder}: {name} has {sizes[name]} bytes, its descriptor says {entry.size_bytes}", hint=_AGAIN
            )
        if verify and digest_file(folder / name) != entry.sha256:
            raise BadCheckpoint(f"{folder}: the content of {name} differs from its descriptor's sha256", hint=_AGAIN)
    unlisted = sorted(sizes.keys() - listed.keys())
    if unlisted:
        raise BadCheckpoint(f"{folder}: {unlisted[0]} is not listed in {DESCRIPTOR_NAME}", hint=_AGAIN)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
