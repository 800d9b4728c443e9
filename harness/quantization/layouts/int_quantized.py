"""compressed-tensors `int-quantized`: 8-bit weights, one scale a row, for kernels that multiply 8-bit integers.

`weight` int8 [rows, inputs]: code - 128. `weight_scale` [rows, 1]. The activations are 8 bits as well, token by token.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness.contract import Quantization, Reason
from harness.errors import Unsupported
from harness.quantization.layouts.compressed_tensors import make_config, read_config
from harness.quantization.layouts.refusals import contradiction, refuse_bits
from harness.quantization.layouts.scheme import Scheme
from harness.quantization.weight import QuantizedWeight

NAME = "compressed-tensors/int-quantized"
SUFFIXES = frozenset({"weight", "weight_scale"})
OPTIONAL: frozenset[str] = frozenset()
MARKERS = frozenset({"weight_scale"})
_MIDDLE = 128


def encode(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    """See `harness.quantization.layouts.encode`."""
    _refuse(weight.bits, whole_rows=weight.scale.shape[1] == 1, symmetric=weight.symmetric)
    return {
        "weight": (weight.codes.to(torch.int16) - _MIDDLE).to(torch.int8),
        "weight_scale": weight.scale.to(dtype).contiguous(),
    }


def decode(tensors: Mapping[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    """See `harness.quantization.layouts.decode`."""
    values, scale = tensors["weight"], tensors["weight_scale"]
    if values.dtype is not torch.int8 or scale.shape != (values.shape[0], 1):
        raise contradiction(NAME, f"{values.dtype} {list(values.shape)} with scales {list(scale.shape)}")
    codes = (values.to(torch.int16) + _MIDDLE).to(torch.uint8)
    zero = torch.full(scale.shape, _MIDDLE, dtype=torch.uint8, device=scale.device)
    return QuantizedWeight(codes, scale, zero, bits=8, symmetric=True)


def make(quantization: Quantization, ignored: Sequence[str], act_order: bool) -> dict[str, object]:
    """See `harness.quantization.layouts.quantization_config`. The order of activations is nothing to whole rows."""
    _refuse(quantization.weight_bits, whole_rows=quantization.group_size == 0, symmetric=quantization.symmetric)
    if quantization.activation_bits != 8:
        raise Unsupported(
            Reason.SETTING,
            f"{NAME} has activations of 8 bits, not {quantization.activation_bits}",
            hint="use compressed-tensors/pack-quantized",
        )
    return make_config("int-quantized", quantization, ignored)


def read(config: Mapping[str, object]) -> Scheme:
    """See `harness.quantization.layouts.read_scheme`."""
    return read_config("int-quantized", config)


def _refuse(bits: int, *, whole_rows: bool, symmetric: bool) -> None:
    refuse_bits(NAME, bits, (8,))
    if not (whole_rows and symmetric):
        found = "asymmetric weights" if whole_rows else "groups within a row"
        raise Unsupported(
            Reason.SETTING,
            f"{NAME} holds symmetric weights with one scale a row, not {found}",
            hint="use compressed-tensors/pack-quantized",
        )
