"""compressed-tensors `pack-quantized`: codes of any width up to 8 bits, packed along the inputs.

`weight_packed` int32 [rows, words]: the unsigned codes, densely packed; versions of the library before 0.19 pack bits
that do not divide 32 otherwise. `weight_scale` [rows, groups]; `weight_shape` int64 [2]; where the quantization is
asymmetric `weight_zero_point` int32 [words, groups], the zeros packed along the rows. Groups that follow the order of
the activations cannot be stored: the library dropped them in 0.19.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness.contract import Quantization
from harness.quantization.bits import pack_bits, unpack_bits
from harness.quantization.layouts.compressed_tensors import make_config, read_config
from harness.quantization.layouts.refusals import contradiction, refuse_act_order, refuse_bits, refuse_uneven_groups
from harness.quantization.layouts.scheme import Scheme
from harness.quantization.weight import QuantizedWeight

NAME = "compressed-tensors/pack-quantized"
SUFFIXES = frozenset({"weight_packed", "weight_scale", "weight_shape"})
OPTIONAL = frozenset({"weight_zero_point"})
MARKERS = frozenset({"weight_packed"})
_BITS = (2, 3, 4, 5, 6, 7, 8)


def encode(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    """See `harness.quantization.layouts.encode`."""
    refuse_bits(NAME, weight.bits, _BITS)
    refuse_uneven_groups(NAME, weight)
    if weight.group_of is not None:
        raise refuse_act_order(NAME)
    tensors = {
        "weight_packed": pack_bits(weight.codes, weight.bits),
        "weight_scale": weight.scale.to(dtype).contiguous(),
        "weight_shape": torch.tensor(weight.codes.shape, dtype=torch.int64),
    }
    if not weight.symmetric:
        tensors["weight_zero_point"] = pack_bits(weight.zero.T, weight.bits).T.contiguous()
    return tensors


def decode(tensors: Mapping[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    """See `harness.quantization.layouts.decode`."""
    packed, scale = tensors["weight_packed"], tensors["weight_scale"]
    bits, symmetric = scheme.bits, bool(scheme.symmetric)
    rows, inputs = (int(size) for size in tensors["weight_shape"])
    if packed.shape != (rows, -(-inputs * bits // 32)) or scale.shape[0] != rows:
        raise contradiction(NAME, f"{bits} bits of {rows} x {inputs} weights in {list(packed.shape)} words")
    if symmetric:
        zero = torch.full(scale.shape, 2 ** (bits - 1), dtype=torch.uint8, device=scale.device)
    elif "weight_zero_point" in tensors:
        zero = unpack_bits(tensors["weight_zero_point"].T, bits, rows).T.contiguous()
    else:
        raise contradiction(NAME, "an asymmetric weight has no zeros")
    return QuantizedWeight(unpack_bits(packed, bits, inputs), scale, zero, bits, symmetric)


def make(quantization: Quantization, ignored: Sequence[str], act_order: bool) -> dict[str, object]:
    """See `harness.quantization.layouts.quantization_config`."""
    refuse_bits(NAME, quantization.weight_bits, _BITS)
    if act_order:
        raise refuse_act_order(NAME)
    return make_config("pack-quantized", quantization, ignored)


def read(config: Mapping[str, object]) -> Scheme:
    """See `harness.quantization.layouts.read_scheme`."""
    return read_config("pack-quantized", config)
