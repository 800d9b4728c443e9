"""ModelOpt's layout of `W4A16_AWQ` weights, as its `--export_fmt hf` writes it and TensorRT-LLM reads it.

`weight` uint8 [rows / 2, inputs]: code - 8 in two's complement, an even row in the low four bits, the row after it in
the high ones. `weight_scale` [rows, groups]. `pre_quant_scale` [inputs] multiplies the linear's input; it is written as
ones, since whatever scaling a method chose is in its weights and norms already. Zeros cannot be stored: TensorRT-LLM's
kernel is called without any. Its groups are of 64 or 128 inputs. docs/exporting.md names the sources.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from harness.contract import Quantization, Reason
from harness.errors import Unsupported
from harness.quantization.layouts.refusals import (
    contradiction,
    refuse_act_order,
    refuse_bits,
    refuse_quantized_activations,
    refuse_size,
    refuse_uneven_groups,
)
from harness.quantization.layouts.scheme import Scheme, StoredConfig, read_as
from harness.quantization.weight import QuantizedWeight

NAME = "modelopt/w4a16-awq"
SUFFIXES = frozenset({"weight", "weight_scale"})
OPTIONAL = frozenset({"pre_quant_scale"})
MARKERS = frozenset({"weight_scale"})
_BITS = 4
_MIDDLE = 8
_GROUP_SIZES = (64, 128)


def encode(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    """See `harness.quantization.layouts.encode`."""
    rows, inputs = weight.codes.shape
    refuse_bits(NAME, weight.bits, (_BITS,))
    refuse_size(NAME, "output", rows, 2)
    refuse_uneven_groups(NAME, weight)
    if weight.group_of is not None:
        raise refuse_act_order(NAME)
    _refuse_zeros(symmetric=bool((weight.zero == _MIDDLE).all()))
    _refuse_group_size(weight.group_size or inputs)
    signed = weight.codes ^ _MIDDLE
    return {
        "weight": (signed[0::2] | signed[1::2] << 4).contiguous(),
        "weight_scale": weight.scale.to(dtype).contiguous(),
        "pre_quant_scale": torch.ones(inputs, dtype=dtype),
    }


def decode(tensors: Mapping[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    """See `harness.quantization.layouts.decode`."""
    packed, scale = tensors["weight"], tensors["weight_scale"]
    if packed.dtype is not torch.uint8 or scale.shape[0] != 2 * packed.shape[0] or packed.shape[1] % scale.shape[1]:
        raise contradiction(NAME, f"{packed.dtype} {list(packed.shape)} with scales {list(scale.shape)}")
    factors = tensors.get("pre_quant_scale")
    if factors is not None and not bool((factors == 1).all()):
        raise contradiction(NAME, "a pre_quant_scale other than ones, which is not written here")
    signed = torch.stack((packed & 15, packed >> 4), dim=1).view(scale.shape[0], packed.shape[1])
    zero = torch.full(scale.shape, _MIDDLE, dtype=torch.uint8, device=scale.device)
    return QuantizedWeight(signed ^ _MIDDLE, scale, zero, _BITS, symmetric=True)


def make(quantization: Quantization, ignored: Sequence[str], act_order: bool) -> dict[str, object]:
    """See `harness.quantization.layouts.quantization_config`."""
    refuse_bits(NAME, quantization.weight_bits, (_BITS,))
    refuse_quantized_activations(NAME, quantization)
    if act_order:
        raise refuse_act_order(NAME)
    _refuse_zeros(symmetric=quantization.symmetric)
    _refuse_group_size(quantization.group_size)
    return {
        "quant_method": "modelopt",
        "quant_algo": "W4A16_AWQ",
        "group_size": quantization.group_size,
        "has_zero_point": False,
        "pre_quant_scale": True,
        "ignore": list(dict.fromkeys([*ignored, "lm_head"])),
    }


class _Config(StoredConfig):
    quant_method: Literal["modelopt"]
    quant_algo: Literal["W4A16_AWQ"]
    group_size: int
    has_zero_point: Literal[False] = False


def read(config: Mapping[str, object]) -> Scheme:
    """See `harness.quantization.layouts.read_scheme`."""
    stored = read_as(_Config, NAME, config)
    return Scheme(bits=_BITS, symmetric=True, group_size=stored.group_size)


def _refuse_zeros(*, symmetric: bool) -> None:
    if not symmetric:
        raise Unsupported(
            Reason.SETTING,
            f"{NAME} holds symmetric weights only, and these have zero points",
            hint="compress with `symmetric: true`, or export the weights dequantized (dense)",
        )


def _refuse_group_size(group_size: int) -> None:
    if group_size not in _GROUP_SIZES:
        found = f"groups of {group_size}" if group_size else "whole rows"
        raise Unsupported(
            Reason.SETTING,
            f"{NAME} holds groups of {' or '.join(map(str, _GROUP_SIZES))} inputs, not {found}",
            hint="compress with a setting such as W4A16g128",
        )
