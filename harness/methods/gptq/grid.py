"""The grids of GPTQ: for each row and group of columns, the scale and the zero that its weights are rounded to.

Columns are [groups, group size, rows] here, float32. A grid spans the extremes of its weights and 0. Its scale is
rounded to the dtype that it is stored in before anything is rounded to it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_STEPS = 100
_LARGEST_SHRINKAGE = 0.8
_NORM = 2.4


@dataclass(frozen=True)
class Grids:
    """w = scale · (code - zero): both float32 [groups, rows], `scale` with values of the dtype it is stored in."""

    scale: Tensor
    zero: Tensor


@dataclass(frozen=True)
class GridRule:
    """How grids are fitted. Symmetric: the zero is in the middle of the codes, and the extremes are ± the larger one.

    `search` shrinks the extremes, by up to 80 % in steps of 1 %, to where the sum of |error|^2.4 is least.
    """

    bits: int
    symmetric: bool
    search: bool
    scale_dtype: torch.dtype

    @property
    def largest_code(self) -> int:
        return (1 << self.bits) - 1

    def fit(self, columns: Tensor) -> Grids:
        """The grids of [groups, group size, rows]."""
        low = columns.amin(dim=1).clamp_(max=0)
        high = columns.amax(dim=1).clamp_(min=0)
        if self.symmetric:
            high = torch.maximum(high, low.neg())
            low = high.neg()
        empty = (low == 0) & (high == 0)
        low.masked_fill_(empty, -1)
        high.masked_fill_(empty, 1)
        return self._search(columns, low, high) if self.search else self._span(low, high)

    def _span(self, low: Tensor, high: Tensor) -> Grids:
        smallest = torch.finfo(self.scale_dtype).tiny
        scale = ((high - low) / self.largest_code).clamp_(min=smallest).to(self.scale_dtype).to(torch.float32)
        if self.symmetric:
            return Grids(scale, torch.full_like(scale, 2 ** (self.bits - 1)))
        return Grids(scale, (-low / scale).round_().clamp_(0, self.largest_code))

    def _search(self, columns: Tensor, low: Tensor, high: Tensor) -> Grids:
        best = self._span(low, high)
        least = torch.full_like(low, torch.inf)
        for step in range(int(_LARGEST_SHRINKAGE * _STEPS)):
            kept = 1 - step / _STEPS
            tried = self._span(low * kept, high * kept)
            error = self.error(columns, tried)
            better = error < least
            least = torch.where(better, error, least)
            best = Grids(torch.where(better, tried.scale, best.scale), torch.where(better, tried.zero, best.zero))
        return best

    def error(self, columns: Tensor, grids: Grids) -> Tensor:
        """The sum of |error|^2.4 over each group of `columns`, [groups, group size, rows]: float32 [groups, rows]."""
        scale, zero = grids.scale.unsqueeze(1), grids.zero.unsqueeze(1)
        codes = (columns / scale).round_().add_(zero).clamp_(0, self.largest_code)
        return codes.sub_(zero).mul_(scale).sub_(columns).abs_().pow_(_NORM).sum(dim=1)
