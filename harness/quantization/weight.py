"""One linear's quantized weight, before any layout: what a method hands over to be stored."""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor


class StoredWeight(Protocol):
    """A weight as a checkpoint stores it, for whoever needs its values alone."""

    @property
    def shape(self) -> tuple[int, int]:
        """Its rows and inputs."""
        ...

    def rows(self, part: slice) -> Self:
        """Some of the rows."""
        ...

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[rows, inputs] in `dtype`."""
        ...


@dataclass(frozen=True)
class QuantizedWeight:
    """w = scale · (code - zero), for each weight with the scale and zero of its row and group.

    codes: uint8 [rows, in_features], 0 to 2**bits - 1.
    scale: [rows, groups] in the dtype it is stored in. zero: uint8 [rows, groups], the code that stands for 0.
    symmetric: every zero is 2**(bits - 1), so that a layout need not store it.
    group_of: int32 [in_features], each input's group; None where groups are runs of equally many consecutive inputs.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: int
    symmetric: bool
    group_of: Tensor | None = None

    @property
    def group_size(self) -> int:
        """Inputs a group; 0 where the whole row is one group."""
        groups = self.scale.shape[1]
        return 0 if groups == 1 else self.codes.shape[1] // groups

    @property
    def shape(self) -> tuple[int, int]:
        """Its rows and inputs."""
        rows, inputs = self.codes.shape
        return rows, inputs

    def rows(self, part: slice) -> "QuantizedWeight":
        """Some of the rows."""
        return replace(self, codes=self.codes[part], scale=self.scale[part], zero=self.zero[part])

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[rows, in_features] in `dtype`: each exact product of scale and code difference, rounded once."""
        differences = self.codes.to(torch.int16) - self._spread(self.zero).to(torch.int16)
        return (differences.to(torch.float32) * self._spread(self.scale).to(torch.float32)).to(dtype)

    def _spread(self, values: Tensor) -> Tensor:
        """[rows, groups] to [rows, in_features], or to [rows, 1] where there is one group."""
        if values.shape[1] == 1:
            return values
        if self.group_of is not None:
            return values[:, self.group_of.long()]
        return values.repeat_interleave(self.codes.shape[1] // values.shape[1], dim=1)
