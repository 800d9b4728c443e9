"""Learnable weight clipping (OmniQuant, section 3.2): how far below a group's extremes its grid ends is learned."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.methods.numerics.rounding import RoundingGrid
from harness.methods.omniquant.rounding import Extremes, Kernels, Rounded, transformed
from harness.quantization.weight import QuantizedWeight

_INITIAL_BOUND = 4.0
"""Before the sigmoid, so that training starts from 0.982 of the extremes."""
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-5, 1e4


@dataclass(frozen=True)
class Factors:
    """What the equivalent transformation multiplies a weight with: columns [in_features], rows [out_features]."""

    columns: Tensor | None = None
    rows: Tensor | None = None


class ClippedWeight:
    """The quantizer of one linear: its weight [rows, inputs], which stays as it is, and two bounds a row and group.

    Asymmetric: scale = (sigmoid(upper) · max - sigmoid(lower) · min) / (2**bits - 1), zero = round(-sigmoid(lower) ·
    min / scale), where max and min include 0. Symmetric: scale = the larger magnitude / (2**(bits-1) - 1).
    """

    def __init__(self, weight: Tensor, grid: RoundingGrid, *, learn: bool, kernels: Kernels) -> None:
        self._weight = weight.detach()
        self._grid = grid
        self._kernels = kernels
        self._levels = (1 << grid.bits) - 1
        self._groups = weight.shape[1] // (grid.group_size or weight.shape[1])
        self._working = torch.promote_types(weight.dtype, torch.float32)
        self._fixed: tuple[Tensor, Tensor] | None = None
        self.upper: Tensor | None = None
        self.lower: Tensor | None = None
        if learn:
            self.upper, self.lower = (
                torch.full((len(weight), self._groups), _INITIAL_BOUND, dtype=self._working, device=weight.device)
                for _ in range(2)
            )

    def parameters(self) -> Iterator[Tensor]:
        """What there is to learn."""
        yield from (bound for bound in (self.upper, self.lower) if bound is not None)

    def round(self, factors: Factors, dtype: torch.dtype) -> Tensor:
        """The weight as it would be stored, [rows, inputs] in `dtype`, with gradients for the bounds and factors."""
        scale, zero = self._scale_and_zero(factors)
        rounded: Tensor = Rounded.apply(  # type: ignore[no-untyped-call]
            self._weight, factors.columns, factors.rows, scale, zero, self._levels, dtype, self._kernels
        )
        return rounded

    @torch.no_grad()
    def quantize(self, factors: Factors) -> QuantizedWeight:
        """The codes of the weight, with the bounds as they are now."""
        scale, zero = self._scale_and_zero(factors)
        codes = transformed(self._weight, factors.columns, factors.rows, self._groups) / scale.unsqueeze(-1)
        codes = codes.round_().add_(zero.unsqueeze(-1)).clamp_(0, self._levels)
        return QuantizedWeight(
            codes=codes.to(torch.uint8).view(self._weight.shape),
            scale=scale.to(self._grid.scale_dtype),
            zero=zero.to(torch.uint8),
            bits=self._grid.bits,
            symmetric=self._grid.symmetric,
        )

    def _scale_and_zero(self, factors: Factors) -> tuple[Tensor, Tensor]:
        """[rows, groups] both, the scale rounded to what can be stored; gradients pass that rounding."""
        largest, smallest = self._extremes(factors)
        if self.upper is not None and self.lower is not None:
            largest, smallest = self.upper.sigmoid() * largest, self.lower.sigmoid() * smallest
        if self._grid.symmetric:
            scale = torch.maximum(largest, -smallest) / (self._levels // 2)
        else:
            scale = (largest - smallest) / self._levels
        scale = scale.clamp(_SMALLEST_SCALE, _LARGEST_SCALE)
        scale = scale + (scale.to(self._grid.scale_dtype).to(scale.dtype) - scale).detach()
        if self._grid.symmetric:
            return scale, torch.full_like(scale, 2 ** (self._grid.bits - 1))
        return scale, (-smallest / scale).detach().round().clamp(0, self._levels)

    def _extremes(self, factors: Factors) -> tuple[Tensor, Tensor]:
        """Without factors they never change, and are computed once."""
        if self._fixed is not None:
            return self._fixed
        found: tuple[Tensor, Tensor] = Extremes.apply(  # type: ignore[no-untyped-call]
            self._weight, factors.columns, factors.rows, self._groups, self._kernels
        )
        largest, smallest = (value.to(self._working) for value in found)
        bounded = largest.clamp(min=0), smallest.clamp(max=0)
        if factors.columns is None and factors.rows is None:
            self._fixed = bounded
        return bounded
