"""Rounding each weight to the nearest value of a grid (RTN): what AWQ searches with, and how AWQ and SmoothQuant end.

A grid is fitted to the extremes of each row's group. Its scales are rounded to the dtype that they are stored in before
the codes are computed, so that the codes fit the stored scales.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.quantization.weight import QuantizedWeight

_SMALLEST_RANGE = 1e-5
"""The authors' bound for rows of zeros, in both methods."""


@dataclass(frozen=True)
class RoundingGrid:
    """`group_size` inputs of a row share a scale, 0 for the whole row; it divides the input sizes.

    Symmetric: scale = absmax / (2**(bits-1) - 1). Asymmetric: scale = (max - min) / (2**bits - 1) with a zero code; 0
    is always within the range.
    """

    bits: int
    group_size: int
    symmetric: bool
    scale_dtype: torch.dtype

    def groups(self, weight: Tensor) -> Tensor:
        """[rows, in_features] as [rows, groups, group size], in float32 or better."""
        exact = torch.promote_types(weight.dtype, torch.float32)
        return weight.to(exact).reshape(weight.shape[0], -1, self.group_size or weight.shape[1])

    def fit(self, grouped: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero of each group, [rows, groups, 1]; the zero is a whole number in the dtype of `grouped`."""
        largest, smallest = grouped.amax(-1, keepdim=True), grouped.amin(-1, keepdim=True)
        if self.symmetric:
            steps = 2 ** (self.bits - 1) - 1
            extent = torch.maximum(largest, smallest.neg_())
        else:
            steps = 2**self.bits - 1
            smallest.clamp_(max=0)
            extent = largest.clamp_(min=0) - smallest
        scale = (extent.clamp_(min=_SMALLEST_RANGE) / steps).to(self.scale_dtype).to(grouped.dtype)
        if self.symmetric:
            return scale, torch.full_like(scale, 2 ** (self.bits - 1))
        return scale, smallest.div_(scale).round_().neg_().clamp_(0, steps)

    def codes(self, grouped: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """The nearest codes, 0 to 2**bits - 1, in the dtype and shape of `grouped`."""
        return (grouped / scale).round_().add_(zero).clamp_(0, 2**self.bits - 1)


def quantize(weight: Tensor, grid: RoundingGrid) -> QuantizedWeight:
    """Round [rows, in_features] to the grid fitted to it."""
    grouped = grid.groups(weight)
    scale, zero = grid.fit(grouped)
    return QuantizedWeight(
        codes=grid.codes(grouped, scale, zero).to(torch.uint8).reshape(weight.shape),
        scale=scale.squeeze(-1).to(grid.scale_dtype),
        zero=zero.squeeze(-1).to(torch.uint8),
        bits=grid.bits,
        symmetric=grid.symmetric,
    )


def fake_quantize(grouped: Tensor, grid: RoundingGrid) -> Tensor:
    """The values that the codes would stand for, in the dtype and shape of `grouped`: see `RoundingGrid.groups`."""
    scale, zero = grid.fit(grouped)
    return grid.codes(grouped, scale, zero).sub_(zero).mul_(scale)
