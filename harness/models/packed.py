"""Reading a checkpoint with quantized linears: transformers' own loading, of weights that are decoded as it asks.

Nothing but torch and safetensors is needed for any format. One weight after another is decoded, dequantized and put
into the model, so that beside the model in its dtype only a few weights are held at a time. A weight is rounded to the
checkpoint's own dtype first, in which it was calibrated and in which engines compute it, so that a model that runs in
float32 has the same weights. llama.cpp's blocks are not: nothing was calibrated, and llama.cpp computes with their
codes and scales, not with rounded products of them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from harness.checkpoint import read_tensors
from harness.contract import CheckpointFormat
from harness.errors import BadCheckpoint
from harness.quantization import layouts
from harness.quantization.layouts.scheme import Scheme
from harness.quantization.weight import QuantizedWeight, StoredWeight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHUNK_WEIGHTS = 2**20

Weight = TypeVar("Weight", bound=StoredWeight)


@dataclass(frozen=True)
class PackedFormat:
    """How the linears are stored, and the dtype that a dequantized weight is rounded to.

    `left_empty`: memory for the weights is made and not filled, for a model whose linears will be replaced.
    """

    checkpoint_format: CheckpointFormat
    scheme: Scheme
    storage_dtype: torch.dtype
    left_empty: bool = False


def load_dequantized(
    folder: Path, packed: PackedFormat, dtype: torch.dtype, **keywords: Any
) -> tuple["PreTrainedModel", dict[str, Any]]:
    """The model in `dtype`, and transformers' report of what it found. `keywords` go to its `from_pretrained`.

    Raises:
        BadCheckpoint: a quantized linear lacks a tensor, or its tensors do not fit together.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    del config.quantization_config
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with ExitStack() as files:
        loaded = model_class.from_pretrained(
            None,
            config=config,
            state_dict=_weights(folder, packed, files),
            dtype=dtype,
            output_loading_info=True,
            **keywords,
        )
    model, report = loaded
    return model, report


class QuantizedLinears:
    """The codes and scales of a checkpoint's quantized linears, read one at a time."""

    def __init__(self, parts: Mapping[str, Mapping[str, Any]], packed: PackedFormat) -> None:
        self._parts = parts
        self._packed = packed

    @classmethod
    @contextmanager
    def open(cls, folder: Path, packed: PackedFormat) -> Iterator["QuantizedLinears"]:
        """Raises BadCheckpoint where a linear lacks a tensor."""
        with ExitStack() as files:
            stored, slices = read_tensors(folder), _slices(folder, files)
            linears = layouts.quantized_linears(packed.checkpoint_format, tuple(stored))
            yield cls(
                {linear: {suffix: slices[name] for suffix, name in parts.items()} for linear, parts in linears.items()},
                packed,
            )

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._parts)

    @property
    def tensors(self) -> frozenset[str]:
        """The names of the tensors that they consist of."""
        return frozenset(f"{linear}.{suffix}" for linear, parts in self._parts.items() for suffix in parts)

    def read_stored(self, linear: str) -> StoredWeight:
        """Of any format. Raises BadCheckpoint where its tensors do not fit together."""
        return _decode(linear, self._parts[linear], self._packed, layouts.read_weight)

    def read(self, linear: str) -> QuantizedWeight:
        """Raises BadCheckpoint where its tensors do not fit together."""
        return _decode(linear, self._parts[linear], self._packed, layouts.decode)


class _QuantizedSlice:
    """A linear's weight that is decoded when it is indexed: how transformers reads a tensor of a safetensors file."""

    def __init__(self, linear: str, parts: Mapping[str, Any], packed: PackedFormat) -> None:
        self._linear = linear
        self._parts = parts
        self._packed = packed

    def __getitem__(self, whole: object) -> Tensor:
        weight = _decode(self._linear, self._parts, self._packed, layouts.read_weight)
        if self._packed.left_empty:
            return torch.empty(weight.shape, dtype=self._packed.storage_dtype)
        return _dequantize(weight, self._packed.storage_dtype)


def _decode(
    linear: str,
    parts: Mapping[str, Any],
    packed: PackedFormat,
    read: Callable[[CheckpointFormat, Mapping[str, Tensor], Scheme], Weight],
) -> Weight:
    tensors = {suffix: part[...] for suffix, part in parts.items()}
    try:
        return read(packed.checkpoint_format, tensors, packed.scheme)
    except BadCheckpoint as broken:
        raise BadCheckpoint(f"{linear}: {broken.message}", hint=broken.hint) from broken


def _weights(folder: Path, packed: PackedFormat, files: ExitStack) -> dict[str, Any]:
    """The state dictionary of the dequantized model, by the names of a dense checkpoint. Nothing is read yet."""
    weights = _slices(folder, files)
    for linear, parts in layouts.quantized_linears(packed.checkpoint_format, tuple(weights)).items():
        slices = {suffix: weights.pop(name) for suffix, name in parts.items()}
        weights[f"{linear}.weight"] = _QuantizedSlice(linear, slices, packed)
    return weights


def _slices(folder: Path, files: ExitStack) -> dict[str, Any]:
    """Every tensor of a checkpoint by its name, none of them read yet."""
    stored = read_tensors(folder)
    shards = {
        name: files.enter_context(safe_open(folder / name, framework="pt"))
        for name in sorted({entry.file for entry in stored.values()})
    }
    return {name: shards[entry.file].get_slice(name) for name, entry in stored.items()}


def _dequantize(weight: StoredWeight, dtype: torch.dtype) -> Tensor:
    """Some rows at a time, since the intermediate values take several times the memory of the result."""
    rows, inputs = weight.shape
    dense = torch.empty(rows, inputs, dtype=dtype)
    step = max(1, _CHUNK_WEIGHTS // inputs)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        dense[part] = weight.rows(part).dequantize(dtype)
    return dense
