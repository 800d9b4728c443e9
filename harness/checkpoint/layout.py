"""Folders in Hugging Face layout: their configuration, and where each tensor lies, from the headers alone.

Covered: safetensors headers and shard indices, and the refusal of pickles, links and incomplete folders. Not covered:
what the tensors mean, which is the business of whoever loads them.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from harness.contract import DESCRIPTOR_NAME, PICKLE_SUFFIXES, UnsafeTree, list_tree, read_regular
from harness.errors import BadCheckpoint

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

_DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
READABLE = "make it readable for everybody (chmod -R o+rX): a worker is not the user root, whoever starts it"
_CONVERT = "convert the weights to safetensors first, for example with transformers' save_pretrained"


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as its safetensors header states it; `dtype` is the header's own word, such as `BF16` or `I32`."""

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Raises BadCheckpoint for a dtype of unknown size."""
        if self.dtype not in _DTYPE_BYTES:
            raise BadCheckpoint(
                f"{self.file} holds a tensor of {self.dtype}, whose size is not known", hint="convert the weights"
            )
        return math.prod(self.shape) * _DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A Hugging Face folder without a descriptor. `left_out` names the files that no checkpoint of ours may carry."""

    config: dict[str, Any]
    tensors: dict[str, TensorEntry]
    weight_files: tuple[str, ...]
    other_files: tuple[str, ...]
    left_out: tuple[str, ...]


def inspect_foreign(folder: Path, links_into: Path | None = None) -> ForeignCheckpoint:
    """Check a Hugging Face folder from elsewhere: config, safetensors weights, complete shards, no links.

    Links to files below `links_into` are files.

    The weights are `model.safetensors`, else the shards that the index names, as transformers itself chooses. Pickles
    beside them are left out; pickles instead of them are refused.

    Raises:
        BadCheckpoint: the folder is not a usable checkpoint, for the reason that the message gives.
    """
    if not folder.is_dir():
        raise BadCheckpoint(f"{folder} is not a folder", hint="name the folder that holds config.json")
    names = sorted(list_files(folder, links_into))
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
        BadCheckpoint: there are no safetensors, a shard is missing or truncated, or the index and the shards disagree
            on a tensor, whichever of them has it.
    """
    if (folder / WEIGHTS_NAME).is_file():
        return _read_header(folder, WEIGHTS_NAME)
    if not (folder / INDEX_NAME).is_file():
        raise _no_weights(folder, sorted(path.name for path in folder.iterdir()))
    placed = read_index(folder)
    found: dict[tuple[str, str], TensorEntry] = {}
    for shard in sorted(set(placed.values())):
        if not (folder / shard).is_file():
            raise BadCheckpoint(f"{folder}: shard {shard} is missing", hint="copy or download every shard of the index")
        found |= {(name, shard): entry for name, entry in _read_header(folder, shard).items()}
    hint = "the index and the shards come from different checkpoints; copy or download them together"
    if absent := sorted(placed.items() - found.keys()):
        raise BadCheckpoint(
            f"{folder}: {len(absent)} tensor(s) are not in the shard that the index names, the first {absent[0][0]}",
            hint=hint,
        )
    if unplaced := sorted(found.keys() - placed.items()):
        name, shard = unplaced[0]
        raise BadCheckpoint(
            f"{folder}: {len(unplaced)} tensor(s) lie in a shard in which the index does not place them, "
            f"the first {name} in {shard}",
            hint=hint,
        )
    return {name: found[name, shard] for name, shard in placed.items()}


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


def list_files(folder: Path, links_into: Path | None = None) -> dict[str, int]:
    """Size in bytes of every regular file below `folder`, the descriptor included; `links_into`: see `inspect_foreign`.

    Raises:
        BadCheckpoint: something there is a link, or otherwise no regular file.
    """
    try:
        return {name: path.stat().st_size for name, path in list_tree(folder, links_into)}
    except UnsafeTree as unsafe:
        hint = "remove it; copy a folder with its links followed (cp -rL)"
        raise BadCheckpoint(f"{folder}: {unsafe}", hint=hint) from unsafe
    except OSError as unreadable:
        raise BadCheckpoint(f"{folder} cannot be read: {unreadable}", hint=READABLE) from unreadable


def refuse_pickles(folder: Path, names: Iterable[str]) -> None:
    """Raise BadCheckpoint for the first of `names` that is a pickle."""
    for name in names:
        if _is_pickle(name):
            raise BadCheckpoint(f"{folder}: {name} is a pickle, which can run code when it is loaded", hint=_CONVERT)


def _is_pickle(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES


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
        document = json.loads(read_regular(path, follow=True).decode())
    except (ValueError, RecursionError) as invalid:
        raise BadCheckpoint(f"{path} is not valid JSON: {invalid}", hint="copy or download the file again") from invalid
    except OSError as unreadable:
        raise BadCheckpoint(f"{path} cannot be read: {unreadable}", hint=READABLE) from unreadable
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
