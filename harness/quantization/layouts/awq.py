"""AWQ's layout, in its `gemm` version: 4-bit codes packed along the rows, eight a word in an order of their own.

`qweight` int32 [inputs, rows / 8]; `qzeros` int32 [groups, rows / 8], the zeros as they are; `scales` [groups, rows].
Zeros are always stored, also those of a symmetric quantization.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from harness.contract import Quantization
from harness.quantization.bits import pack_bits, unpack_bits
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

NAME = "awq"
SUFFIXES = frozenset({"qweight", "qzeros", "scales"})
OPTIONAL: frozenset[str] = frozenset()
MARKERS = frozenset({"qweight"})
_BITS = 4
_WORD_CODES = 8
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight consecutive rows lies at each place of a word, from the lowest bits."""


def encode(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    """See `harness.quantization.layouts.encode`."""
    refuse_bits(NAME, weight.bits, (_BITS,))
    refuse_size(NAME, "output", weight.codes.shape[0], _WORD_CODES)
    refuse_uneven_groups(NAME, weight)
    if weight.group_of is not None:
        raise refuse_act_order(NAME)
    return {
        "qweight": _pack(weight.codes.T),
        "qzeros": _pack(weight.zero.T),
        "scales": weight.scale.to(dtype).T.contiguous(),
    }


def decode(tensors: Mapping[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    """See `harness.quantization.layouts.decode`."""
    packed, packed_zeros, scales = tensors["qweight"], tensors["qzeros"], tensors["scales"]
    words = scales.shape[1] // _WORD_CODES
    if packed.shape[1] != words or packed_zeros.shape != (scales.shape[0], words) or packed.shape[0] % scales.shape[0]:
        raise contradiction(NAME, f"words {list(packed.shape)} with scales {list(scales.shape)}")
    zero = _unpack(packed_zeros)
    symmetric = bool((zero == 2 ** (_BITS - 1)).all())
    return QuantizedWeight(_unpack(packed), scales.T.contiguous(), zero, _BITS, symmetric)


def make(quantization: Quantization, ignored: Sequence[str], act_order: bool) -> dict[str, object]:
    """See `harness.quantization.layouts.quantization_config`."""
    refuse_bits(NAME, quantization.weight_bits, (_BITS,))
    refuse_quantized_activations(NAME, quantization)
    if act_order:
        raise refuse_act_order(NAME)
    return {
        "quant_method": "awq",
        "bits": _BITS,
        "group_size": quantization.group_size or -1,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": list(dict.fromkeys([*ignored, "lm_head"])),
    }


class _Config(StoredConfig):
    quant_method: Literal["awq"]
    bits: Literal[4]
    group_size: int
    version: Literal["gemm"] = "gemm"


def read(config: Mapping[str, object]) -> Scheme:
    """See `harness.quantization.layouts.read_scheme`."""
    stored = read_as(_Config, NAME, config)
    return Scheme(bits=stored.bits, symmetric=None, group_size=max(stored.group_size, 0))


def _pack(codes: Tensor) -> Tensor:
    """[n, rows] to int32 [n, rows / 8]."""
    count, rows = codes.shape
    reordered = codes.reshape(count, rows // _WORD_CODES, _WORD_CODES)[:, :, list(_ORDER)]
    return pack_bits(reordered.reshape(count, rows), _BITS)


def _unpack(words: Tensor) -> Tensor:
    """int32 [n, rows / 8] to uint8 [rows, n]."""
    count, width = words.shape
    stored = unpack_bits(words, _BITS, width * _WORD_CODES).view(count, width, _WORD_CODES)
    codes = torch.empty_like(stored)
    codes[:, :, list(_ORDER)] = stored
    return codes.view(count, width * _WORD_CODES).T.contiguous()
