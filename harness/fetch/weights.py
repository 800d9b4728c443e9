"""The safetensors files of a fetched model: moved as they are, or converted to another dtype one file at a time."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from harness.checkpoint import INDEX_NAME, ForeignCheckpoint, TensorEntry, read_tensors
from harness.contract import Dtype, Reason
from harness.errors import Unsupported
from harness.reporter import Reporter

if TYPE_CHECKING:
    from torch import Tensor

Transfer = Callable[[Path, Path], object]
"""How a file reaches the checkpoint: copied from a source that is not ours, moved from our own scratch folder."""

_DTYPES = {"F32": Dtype.FLOAT32, "BF16": Dtype.BFLOAT16, "F16": Dtype.FLOAT16}


def stored_dtype(tensors: Mapping[str, TensorEntry]) -> tuple[Dtype, tuple[str, ...]]:
    """The dtype that most weights are stored in, and a note where there are several.

    Raises:
        Unsupported: most of the weights are stored in a dtype that is not a plain floating-point one.
    """
    weights: Counter[str] = Counter()
    for entry in tensors.values():
        weights[entry.dtype] += prod(entry.shape)
    most = weights.most_common(1)[0][0]
    if most not in _DTYPES:
        raise Unsupported(
            Reason.DTYPE,
            f"the weights are stored as {most}",
            hint="fetch a model stored in float32, bfloat16 or float16",
        )
    others = ", ".join(sorted(weights.keys() - {most}))
    notes = (f"weights are mostly {most}; some tensors are {others}",) if others else ()
    return _DTYPES[most], notes


def place_weights(
    source: Path,
    foreign: ForeignCheckpoint,
    staging: Path,
    transfer: Transfer,
    reporter: Reporter,
    *,
    leave_out: Collection[str] = (),
) -> None:
    """Bring the weights into `staging`: byte for byte, but for files with a tensor to leave out, which are written."""
    sizes = {name: (source / name).stat().st_size for name in foreign.weight_files}
    total, done = sum(sizes.values()), 0
    written = {foreign.tensors[name].file for name in leave_out}
    for name, size in sizes.items():
        if name in written:
            _write_file(source, staging, name, leave_out, lambda _, tensor: tensor)
        else:
            transfer(source / name, staging / name)
        done += size
        reporter.progress(done, total, "bytes")
    if written:
        _write_index(source, staging, leave_out)
    elif len(sizes) > 1 or (source / INDEX_NAME).is_file():
        transfer(source / INDEX_NAME, staging / INDEX_NAME)


def convert_weights(
    source: Path,
    foreign: ForeignCheckpoint,
    staging: Path,
    dtype: Dtype,
    reporter: Reporter,
    *,
    leave_out: Collection[str] = (),
) -> None:
    """Write the weights into `staging` in another dtype, one file at a time, so that memory holds one file at most.

    Raises:
        Unsupported: a weight does not fit into `dtype`.
    """
    import torch

    target: torch.dtype = getattr(torch, dtype.value)

    def convert(name: str, tensor: "Tensor") -> "Tensor":
        if not tensor.is_floating_point():
            return tensor
        converted = tensor.to(target)
        if not torch.equal(tensor.isfinite(), converted.isfinite()):
            raise Unsupported(
                Reason.DTYPE, f"{name} has weights too large for {dtype.value}", hint="keep the source's own dtype"
            )
        return converted

    for done, name in enumerate(foreign.weight_files, start=1):
        _write_file(source, staging, name, leave_out, convert)
        reporter.progress(done, len(foreign.weight_files), "files")
    _write_index(source, staging, leave_out)


def _write_file(
    source: Path,
    staging: Path,
    name: str,
    leave_out: Collection[str],
    make: Callable[[str, "Tensor"], "Tensor"],
) -> None:
    """Write one file of weights anew; a file of which nothing is left is not written."""
    from safetensors.torch import load_file, save_file

    kept = {key: make(key, tensor) for key, tensor in load_file(source / name).items() if key not in leave_out}
    if kept:
        save_file(kept, staging / name, metadata={"format": "pt"})


def _write_index(source: Path, staging: Path, leave_out: Collection[str]) -> None:
    """The source's index, if it has one, for the files that are in `staging`."""
    if not (source / INDEX_NAME).is_file():
        return
    index = json.loads((source / INDEX_NAME).read_text(encoding="utf-8"))
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if name not in leave_out}
    (staging / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")
    total = sum(entry.size_bytes for entry in read_tensors(staging).values())
    index["metadata"] = {**(index.get("metadata") or {}), "total_size": total}
    (staging / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")


def copy(source: Path, destination: Path) -> None:
    shutil.copyfile(source, destination)


def move(source: Path, destination: Path) -> None:
    source.replace(destination)
