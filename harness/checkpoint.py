"""Reading and publishing artifacts: folders that `llmcbench.json` describes completely.

Covered: the check of a folder against its descriptor, of safetensors headers and shard indices, the refusal of pickles
and links, and publication by rename. Not covered: what the tensors mean, which is the business of whoever loads them.
"""

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from harness.contract import (
    DESCRIPTOR_NAME,
    CheckpointDescriptor,
    DatasetDescriptor,
    Descriptor,
    FileEntry,
    UnsafeTree,
    canonical_json,
    describe_tree,
    digest_file,
)
from harness.errors import BadCheckpoint, BadRequest

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})

_DESCRIPTOR: TypeAdapter[CheckpointDescriptor | DatasetDescriptor] = TypeAdapter(Descriptor)
_FILE_MODE = 0o644
_AGAIN = "fetch or compress it again; a published artifact is never changed by hand"
_CONVERT = "convert the weights to safetensors first, for example with transformers' save_pretrained"

Made = TypeVar("Made", bound=CheckpointDescriptor | DatasetDescriptor)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as its safetensors header states it; `dtype` is the header's own word, such as `BF16` or `I32`."""

    file: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A Hugging Face folder without a descriptor. `left_out` names the files that no checkpoint of ours may carry."""

    config: dict[str, Any]
    tensors: dict[str, TensorEntry]
    weight_files: tuple[str, ...]
    other_files: tuple[str, ...]
    left_out: tuple[str, ...]


def open_checkpoint(folder: Path, *, verify: bool = False) -> CheckpointDescriptor:
    """The descriptor of a published checkpoint, once the folder was found to be what it says; sha256 when `verify`.

    Raises:
        BadCheckpoint: a file is missing, added, altered, linked, truncated or a pickle.
    """
    descriptor = _read_descriptor(folder)
    if not isinstance(descriptor, CheckpointDescriptor):
        raise BadCheckpoint(f"{folder} is a data set, not a checkpoint", hint="name a checkpoint as this input")
    _compare(folder, descriptor.files, verify=verify)
    _refuse_pickles(folder, descriptor.files)
    read_config(folder)
    read_tensors(folder)
    return descriptor


def open_dataset(folder: Path, *, verify: bool = False) -> DatasetDescriptor:
    """The descriptor of a published data set, once the folder was found to be what it says; sha256 when `verify`.

    Raises:
        BadCheckpoint: a file is missing, added, altered or linked.
    """
    descriptor = _read_descriptor(folder)
    if not isinstance(descriptor, DatasetDescriptor):
        raise BadCheckpoint(f"{folder} is a checkpoint, not a data set", hint="name a data set as this input")
    _compare(folder, descriptor.files, verify=verify)
    return descriptor


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
        _refuse_pickles(staging, files)
        read_config(staging)
        read_tensors(staging)
    (staging / DESCRIPTOR_NAME).write_bytes(canonical_json(descriptor.model_dump(mode="json")))
    for name in (*files, DESCRIPTOR_NAME):
        (staging / name).chmod(_FILE_MODE)
        _sync(staging / name)
    _sync(staging)
    staging.rename(destination)
    _sync(destination.parent)
    return descriptor


def inspect_foreign(folder: Path) -> ForeignCheckpoint:
    """Check a Hugging Face folder from elsewhere: config, safetensors weights, complete shards, no links.

    The weights are `model.safetensors`, else the shards that the index names, as transformers itself chooses. Pickles
    beside them are left out; pickles instead of them are refused.

    Raises:
        BadCheckpoint: the folder is not a usable checkpoint, for the reason that the message gives.
    """
    if not folder.is_dir():
        raise BadCheckpoint(f"{folder} is not a folder", hint="name the folder that holds config.json")
    names = sorted(_list_files(folder))
    config = read_config(folder)
    if WEIGHTS_NAME not in names and INDEX_NAME not in names:
        raise _no_weights(folder, names)
    tensors = read_tensors(folder)
    weights = tuple(sorted({entry.file for entry in tensors.values()}))
    rest = [name for name in names if name not in weights and name not in (CONFIG_NAME, INDEX_NAME, DESCRIPTOR_NAME)]
    left_out = tuple(name for name in rest if _is_pickle(name) or name.endswith(".safetensors"))
    return ForeignCheckpoint(
        config=config,
        tensors=tensors,
        weight_files=weights,
        other_files=tuple(name for name in rest if name not in left_out),
        left_out=left_out,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` as a dictionary.

    Raises:
        BadCheckpoint: it is missing, not JSON, or not an object.
    """
    return _read_object(folder / CONFIG_NAME)


def read_tensors(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor of a checkpoint by name, from the headers alone: no weight is read.

    Raises:
        BadCheckpoint: there are no safetensors, a shard is missing or truncated, or the index and the shards disagree.
    """
    if (folder / WEIGHTS_NAME).is_file():
        return _read_header(folder, WEIGHTS_NAME)
    if not (folder / INDEX_NAME).is_file():
        raise _no_weights(folder, sorted(_list_files(folder)))
    placed = read_index(folder)
    tensors: dict[str, TensorEntry] = {}
    for shard in sorted(set(placed.values())):
        if not (folder / shard).is_file():
            raise BadCheckpoint(f"{folder}: shard {shard} is missing", hint="copy or download every shard of the index")
        tensors |= _read_header(folder, shard)
    absent = sorted(name for name, shard in placed.items() if name not in tensors or tensors[name].file != shard)
    if absent:
        raise BadCheckpoint(
            f"{folder}: {len(absent)} tensor(s) are not in the shard that the index names, the first {absent[0]}",
            hint="the index and the shards come from different checkpoints; copy or download them together",
        )
    return {name: tensors[name] for name in placed}


def read_index(folder: Path) -> dict[str, str]:
    """Which shard holds which tensor, as `model.safetensors.index.json` says.

    Raises:
        BadCheckpoint: the index is missing, not JSON, or names something other than safetensors files of this folder.
    """
    path = folder / INDEX_NAME
    placed = _read_object(path).get("weight_map")
    hint = "copy or download the index again"
    if not isinstance(placed, dict) or not placed:
        raise BadCheckpoint(f"{path} has no weight_map", hint=hint)
    for shard in placed.values():
        if not isinstance(shard, str) or PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
            raise BadCheckpoint(f"{path} names {shard!r}, which is no safetensors file of this folder", hint=hint)
    return placed


def read_rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """The rows of one split of a published data set, in order.

    Raises:
        BadCheckpoint: the data set does not have this split, or its file cannot be read.
    """
    path = folder / f"{split}.jsonl.gz"
    if not path.is_file():
        has = ", ".join(sorted(found.name.removesuffix(".jsonl.gz") for found in folder.glob("*.jsonl.gz"))) or "none"
        raise BadCheckpoint(
            f"{folder} has no split {split!r}; it has: {has}", hint="fetch the data set from a source that has it"
        )
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, EOFError, ValueError) as broken:
        raise BadCheckpoint(f"{path} cannot be read: {broken}", hint=_AGAIN) from broken


def _read_descriptor(folder: Path) -> CheckpointDescriptor | DatasetDescriptor:
    path = folder / DESCRIPTOR_NAME
    if not path.is_file() or path.is_symlink():
        raise BadCheckpoint(
            f"{folder} has no {DESCRIPTOR_NAME}", hint="a model from elsewhere enters through fetch: write `dir:PATH`"
        )
    try:
        return _DESCRIPTOR.validate_json(path.read_bytes())
    except ValidationError as invalid:
        raise BadCheckpoint(f"{path} is not a valid descriptor: {invalid}", hint=_AGAIN) from invalid


def _list_files(folder: Path) -> dict[str, int]:
    """Size in bytes of every regular file below `folder`, the descriptor included."""
    sizes = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise BadCheckpoint(
                f"{folder}: {name} is a symbolic link", hint="copy the folder with its links followed (cp -rL)"
            )
        if path.is_dir():
            continue
        if not path.is_file():
            raise BadCheckpoint(f"{folder}: {name} is not a regular file", hint="remove it")
        sizes[name] = path.stat().st_size
    return sizes


def _compare(folder: Path, listed: dict[str, FileEntry], *, verify: bool) -> None:
    sizes = _list_files(folder)
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


def _is_pickle(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES


def _refuse_pickles(folder: Path, files: dict[str, FileEntry]) -> None:
    for name in files:
        if _is_pickle(name):
            raise BadCheckpoint(f"{folder}: {name} is a pickle, which can run code when it is loaded", hint=_CONVERT)


def _no_weights(folder: Path, names: list[str]) -> BadCheckpoint:
    pickles = [name for name in names if _is_pickle(name)]
    if pickles:
        return BadCheckpoint(f"{folder}: the weights are a pickle ({pickles[0]}), not safetensors", hint=_CONVERT)
    return BadCheckpoint(
        f"{folder} holds neither {WEIGHTS_NAME} nor {INDEX_NAME}", hint="name the folder that holds the weights"
    )


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BadCheckpoint(f"{path.parent} has no {path.name}", hint="name a complete Hugging Face checkpoint folder")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as invalid:
        raise BadCheckpoint(f"{path} is not valid JSON: {invalid}", hint="copy or download the file again") from invalid
    if not isinstance(document, dict):
        raise BadCheckpoint(f"{path} does not hold a JSON object", hint="copy or download the file again")
    return document


def _read_header(folder: Path, name: str) -> dict[str, TensorEntry]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / name, framework="np") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  not a dictionary
            return {key: TensorEntry(name, part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}
    except (SafetensorError, OSError) as broken:
        raise BadCheckpoint(
            f"{folder}: {name} is truncated or not a safetensors file: {broken}", hint="copy or download it again"
        ) from broken


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
