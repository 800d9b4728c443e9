"""Codes as the kernel for weights alone reads them: packed in 32-bit words, with a scale and zero for each group."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.quantization.bits import WORD_BITS, pack_bits
from harness.quantization.weight import QuantizedWeight

BITS = (4, 8)
LEAST_GROUP = 32


@dataclass(frozen=True)
class PackedCodes:
    """w = scale · (code - zero) for 4 or 8 bits.

    words: int32 [rows, in_features · bits / 32], the lowest bits first. scale: [rows, groups] in the dtype to compute
    in. zero: uint8 [rows, groups]; None where every zero is 2**(bits - 1).
    """

    words: Tensor
    scale: Tensor
    zero: Tensor | None
    bits: int

    @property
    def rows(self) -> int:
        return self.words.shape[0]

    @property
    def in_features(self) -> int:
        return self.words.shape[1] * WORD_BITS // self.bits

    @property
    def group_size(self) -> int:
        """Inputs a group; all of them where a row has one scale."""
        return self.in_features // self.scale.shape[1]


def pack(weight: QuantizedWeight, dtype: torch.dtype) -> PackedCodes:
    """A weight of 4 or 8 bits in groups of neighbours, on its own device. Exact where `dtype` holds the scales."""
    return PackedCodes(
        words=pack_bits(weight.codes, weight.bits),
        scale=weight.scale.to(dtype).contiguous(),
        zero=None if weight.symmetric else weight.zero.contiguous(),
        bits=weight.bits,
    )


def stack(parts: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """One weight with the rows of all `parts`, which are quantized alike."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return replace(
        first,
        codes=torch.cat([part.codes for part in parts]),
        scale=torch.cat([part.scale for part in parts]),
        zero=torch.cat([part.zero for part in parts]),
    )
