"""How quantized linears lie in a checkpoint: one module a format, chosen here by `CheckpointFormat`.

In the place of the tensor `<linear>.weight` stand the tensors of the format, `<linear>.<suffix>`; `quantization_config`
in config.json says how to read them. The bias, and every other tensor of the model, stays as it was.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from harness.contract import CheckpointFormat, Quantization, Reason
from harness.errors import BadCheckpoint, Unsupported
from harness.quantization.layouts import awq, gguf, gptq, int_quantized, modelopt_awq, pack_quantized
from harness.quantization.layouts.scheme import Scheme
from harness.quantization.weight import QuantizedWeight, StoredWeight

_AGAIN = "compress the checkpoint again; a published artifact is never changed by hand"


class _Format(Protocol):
    """What the module of a format offers. `MARKERS` are suffixes of which only a quantized linear has one."""

    SUFFIXES: frozenset[str]
    OPTIONAL: frozenset[str]
    MARKERS: frozenset[str]

    def make(self, quantization: Quantization, ignored: Sequence[str], act_order: bool) -> dict[str, object]: ...

    def read(self, config: Mapping[str, object]) -> Scheme: ...


class _Layout(_Format, Protocol):
    """What the module of a format of codes, scales and zeros offers."""

    def encode(self, weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]: ...

    def decode(self, tensors: Mapping[str, Tensor], scheme: Scheme) -> QuantizedWeight: ...


_LAYOUTS: dict[CheckpointFormat, _Layout] = {
    CheckpointFormat.PACK_QUANTIZED: pack_quantized,
    CheckpointFormat.INT_QUANTIZED: int_quantized,
    CheckpointFormat.GPTQ: gptq,
    CheckpointFormat.AWQ: awq,
    CheckpointFormat.MODELOPT_AWQ: modelopt_awq,
}
_FORMATS: dict[CheckpointFormat, _Format] = {**_LAYOUTS, CheckpointFormat.GGUF: gguf}


def encode(checkpoint_format: CheckpointFormat, weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors that stand for `weight` in a checkpoint, by suffix; scales are stored in `dtype`.

    Raises:
        Unsupported: the format cannot hold these bits, this symmetry, this grouping or this shape.
        ValueError: `dtype` cannot hold the scales exactly.
    """
    if not torch.equal(weight.scale.to(dtype).to(weight.scale.dtype), weight.scale):
        raise ValueError(f"the scales were not rounded to {dtype} before the weight was quantized")
    return _layout(checkpoint_format).encode(weight, dtype)


def decode(checkpoint_format: CheckpointFormat, tensors: Mapping[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    """The inverse of `encode`: `tensors` are one linear's by suffix, `scheme` is what config.json says of them all.

    Raises:
        BadCheckpoint: the tensors contradict each other or the scheme.
    """
    return _layout(checkpoint_format).decode(tensors, scheme)


def read_weight(checkpoint_format: CheckpointFormat, tensors: Mapping[str, Tensor], scheme: Scheme) -> StoredWeight:
    """Like `decode`, for whoever needs no more than the values: of any format that is read here.

    Raises:
        BadCheckpoint: the tensors contradict each other or the scheme.
    """
    if checkpoint_format is CheckpointFormat.GGUF:
        return gguf.decode(tensors)
    return decode(checkpoint_format, tensors, scheme)


def suffixes(checkpoint_format: CheckpointFormat) -> frozenset[str]:
    """Every suffix that a quantized linear's tensors can have, the optional ones included."""
    layout = _format(checkpoint_format)
    return layout.SUFFIXES | layout.OPTIONAL


def quantized_linears(checkpoint_format: CheckpointFormat, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """From all the tensor names of a checkpoint: of each quantized linear, its tensors' names by suffix.

    Raises:
        BadCheckpoint: there is no quantized linear, or one lacks a tensor.
    """
    layout = _format(checkpoint_format)
    present = frozenset(names)
    linears = {}
    for name in names:
        linear, _, suffix = name.rpartition(".")
        if suffix in layout.MARKERS:
            parts = {part: f"{linear}.{part}" for part in sorted(suffixes(checkpoint_format))}
            found = {part: full for part, full in parts.items() if full in present}
            if absent := layout.SUFFIXES - found.keys():
                raise BadCheckpoint(
                    f"{linear} has no tensor {min(absent)}, which {checkpoint_format.value} needs", hint=_AGAIN
                )
            linears[linear] = found
    if not linears:
        raise BadCheckpoint(
            f"the descriptor says {checkpoint_format.value}, but there is no tensor *.{min(layout.MARKERS)}",
            hint=_AGAIN,
        )
    return linears


def quantization_config(
    checkpoint_format: CheckpointFormat,
    quantization: Quantization,
    *,
    ignored: Sequence[str],
    act_order: bool = False,
) -> dict[str, object]:
    """What stands as `quantization_config` in config.json. `ignored` names the linears that are not quantized.

    `act_order`: some weight's inputs are not grouped in their order (its `group_of` is not None). Readers are told, and
    `decode` refuses such a weight where they were not.

    Raises:
        Unsupported: the format has no place for this quantization.
    """
    if quantization.attention_bits is not None:
        raise Unsupported(
            Reason.SETTING,
            f"{checkpoint_format.value} has no place for quantized queries, keys and values",
            hint="store the dequantized weights (dense, simulated)",
        )
    return _format(checkpoint_format).make(quantization, ignored, act_order)


def read_scheme(checkpoint_format: CheckpointFormat, config: Mapping[str, object]) -> Scheme:
    """What a `quantization_config` states.

    Raises:
        BadCheckpoint: it is of another format, or of a variant that is not read here.
    """
    return _format(checkpoint_format).read(config)


def check_config(
    checkpoint_format: CheckpointFormat, quantization: Quantization | None, config: Mapping[str, object]
) -> Scheme | None:
    """The scheme of a checkpoint, once its config.json and its descriptor were found to say the same; None if dense.

    Raises:
        BadCheckpoint: one says that the weights are quantized, or how, and the other does not.
        Unsupported: the format is written for an engine, and not read here.
    """
    if checkpoint_format is not CheckpointFormat.DENSE and checkpoint_format not in _FORMATS:
        raise Unsupported(
            Reason.FORMAT,
            f"{checkpoint_format.value} weights are written for an engine that computes with them, and not read here",
            hint="use the checkpoint that this one was exported from",
        )
    stated = config.get("quantization_config")
    if checkpoint_format is CheckpointFormat.DENSE:
        if stated is not None:
            raise BadCheckpoint("the descriptor says dense, but config.json has a quantization_config", hint=_AGAIN)
        return None
    if quantization is None or not isinstance(stated, Mapping):
        lacking = "the descriptor has no quantization" if quantization is None else "config.json no quantization_config"
        raise BadCheckpoint(f"the format is {checkpoint_format.value}, but {lacking}", hint=_AGAIN)
    scheme = read_scheme(checkpoint_format, stated)
    for what, described, read in (
        ("bits of the weights", quantization.weight_bits, scheme.bits),
        ("group size", quantization.group_size, scheme.group_size),
        ("symmetric weights", quantization.symmetric, scheme.symmetric),
        ("bits of the activations", quantization.activation_bits, scheme.activation_bits),
        ("symmetric activations", quantization.activations_symmetric, scheme.activations_symmetric),
    ):
        if read is not None and read != described:
            raise BadCheckpoint(f"{what}: {described} by the descriptor, {read} by config.json", hint=_AGAIN)
    return scheme


def _layout(checkpoint_format: CheckpointFormat) -> _Layout:
    if checkpoint_format not in _LAYOUTS:
        raise ValueError(f"{checkpoint_format.value} weights are no codes and scales")
    return _LAYOUTS[checkpoint_format]


def _format(checkpoint_format: CheckpointFormat) -> _Format:
    if checkpoint_format not in _FORMATS:
        raise ValueError(f"{checkpoint_format.value} weights are not read here")
    return _FORMATS[checkpoint_format]
