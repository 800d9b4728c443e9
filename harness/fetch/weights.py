"""The safetensors files of a fetched model: moved as they are, or converted to another dtype one file at a time."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

from harness.checkpoint import INDEX_NAME, ForeignCheckpoint, TensorEntry
from harness.contract import Dtype, Reason
from harness.errors import Unsupported
from harness.reporter import Reporter

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
    source: Path, foreign: ForeignCheckpoint, staging: Path, transfer: Transfer, reporter: Reporter
) -> None:
    """Bring the weights into `staging` unchanged, byte for byte."""
    sizes = {name: (source / name).stat().st_size for name in foreign.weight_files}
    total, done = sum(sizes.values()), 0
    for name, size in sizes.items():
        transfer(source / name, staging / name)
        done += size
        reporter.progress(done, total, "bytes")
    if len(sizes) > 1 or (source / INDEX_NAME).is_file():
        transfer(source / INDEX_NAME, staging / INDEX_NAME)


def convert_weights(source: Path, foreign: ForeignCheckpoint, staging: Path, dtype: Dtype, reporter: Reporter) -> None:
    """Write the weights into `staging` in another dtype, one file at a time, so that memory holds one file at most.

    Raises:
        Unsupported: a finite weight does not fit into `dtype`.
    """
    import torch
    from safetensors.torch import load_file, save_file

    target: torch.dtype = getattr(torch, dtype.value)
    total_bytes = 0
    for done, name in enumerate(foreign.weight_files, start=1):
        converted = {}
        for key, tensor in load_file(source / name).items():
            converted[key] = tensor.to(target) if tensor.is_floating_point() else tensor
            if tensor.is_floating_point() and not torch.equal(tensor.isfinite(), converted[key].isfinite()):
                raise Unsupported(
                    Reason.DTYPE, f"{key} has weights too large for {dtype.value}", hint="keep the source's own dtype"
                )
            total_bytes += converted[key].numel() * converted[key].element_size()
        save_file(converted, staging / name, metadata={"format": "pt"})
        reporter.progress(done, len(foreign.weight_files), "files")
    if (source / INDEX_NAME).is_file():
        index = json.loads((source / INDEX_NAME).read_text(encoding="utf-8"))
        index["metadata"] = {**index.get("metadata", {}), "total_size": total_bytes}
        (staging / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")


def copy(source: Path, destination: Path) -> None:
    shutil.copyfile(source, destination)


def move(source: Path, destination: Path) -> None:
    source.replace(destination)
