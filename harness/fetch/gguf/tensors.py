"""The tensors of a GGUF file, dequantized by the package `gguf` and brought into the order of transformers."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from harness.contract import Dtype, Reason
from harness.contract.gguf import GgufModel, Placed
from harness.contract.stored import StoredTensor
from harness.errors import BadCheckpoint, Unsupported
from harness.reporter import Reporter

if TYPE_CHECKING:
    from torch import Tensor

_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
_SHARD_BYTES = 5 * 10**9


def is_quantized(tensor: StoredTensor) -> bool:
    return tensor.dtype not in _PLAIN


def read_tensor(tensor: StoredTensor) -> "Tensor":
    """A tensor of a GGUF file, dequantized: float32 of its shape, in memory of its own.

    Raises:
        BadCheckpoint: the file is shorter than it was.
    """
    import numpy as np
    import torch
    from gguf import GGMLQuantizationType, dequantize

    content = np.fromfile(tensor.path, dtype=np.uint8, count=tensor.size_bytes, offset=tensor.begin)
    if content.size != tensor.size_bytes:
        raise BadCheckpoint(f"{tensor.path.name} ends within {tensor.name}", hint="copy or download the file again")
    if tensor.dtype in ("F64", "F32", "F16"):
        floats = content.view({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[tensor.dtype])
        values = floats.reshape(tensor.shape).astype(np.float32)
    else:
        rows = content.reshape(*tensor.shape[:-1], -1)
        values = dequantize(rows, GGMLQuantizationType[tensor.dtype]).astype(np.float32, copy=False)
    return torch.from_numpy(np.ascontiguousarray(values.reshape(tensor.shape)))


def write_weights(model: GgufModel, folder: Path, dtype: Dtype, reporter: Reporter) -> None:
    """Write the model's weights in `dtype` as safetensors, with an index where they are more than one file.

    Raises:
        BadCheckpoint: the file is shorter than it was.
        Unsupported: a tensor holds whole numbers, or what does not fit into `dtype`.
    """
    import json

    from safetensors.torch import save_file

    from harness.checkpoint import INDEX_NAME, WEIGHTS_NAME

    shards = list(_shards(model, 4 if dtype is Dtype.FLOAT32 else 2))
    names = [WEIGHTS_NAME]
    if len(shards) > 1:
        names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    done = 0
    places: dict[str, str] = {}
    for name, shard in zip(names, shards, strict=True):
        tensors = {}
        for one in shard:
            tensors[one.name] = _in_order(model, one, dtype)
            done += one.tensor.size_bytes
            reporter.progress(done, sum(each.tensor.size_bytes for each in model.placed), "bytes")
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": places}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")


def _shards(model: GgufModel, value_bytes: int) -> Iterator[tuple[Placed, ...]]:
    begins, filled = [0], 0
    for number, one in enumerate(model.placed):
        size = one.tensor.values * value_bytes
        if filled and filled + size > _SHARD_BYTES:
            begins.append(number)
            filled = 0
        filled += size
    for begin, end in pairwise([*begins, len(model.placed)]):
        yield model.placed[begin:end]


def _in_order(model: GgufModel, placed: Placed, dtype: Dtype) -> "Tensor":
    """The tensor as transformers has it."""
    import torch

    if placed.tensor.dtype.startswith("I") and placed.tensor.dtype[1:].isdigit():
        raise Unsupported(
            Reason.DTYPE,
            f"{placed.tensor.name} is stored as {placed.tensor.dtype}, which is no weight",
            hint="give the model as safetensors (`hub:` or `dir:`)",
        )
    values = read_tensor(placed.tensor)
    stem = placed.tensor.name.rpartition(".")[0]
    if model.family.pairs_neighbours and stem.endswith((".attn_q", ".attn_k")):
        values = _halves(values, model.heads if stem.endswith("_q") else model.key_heads)
    if model.family.norms_plus_one and stem.endswith("norm"):
        values = values - 1
    target: torch.dtype = getattr(torch, dtype.value)
    made = values.to(target)
    if not torch.equal(values.isfinite(), made.isfinite()):
        raise Unsupported(
            Reason.DTYPE,
            f"{placed.tensor.name} has weights too large for {dtype.value}",
            hint="store the model as bfloat16 or float32 (`dtype`)",
        )
    return made


def _halves(rows: "Tensor", heads: int) -> "Tensor":
    """Rows [heads * size, ...] with 2i and 2i + 1 of every head taken apart, to i and i + size / 2."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape).contiguous()
