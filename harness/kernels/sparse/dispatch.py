"""A linear layer over a packed sparse weight that multiplies each number of tokens the way its table says."""

from typing import Any

import torch
from torch import Tensor, nn

from harness.contract import Reason
from harness.errors import Unsupported
from harness.kernels.operator import OpaqueLinear
from harness.kernels.scratch import Scratch
from harness.kernels.sparse import launch
from harness.kernels.sparse.choice import ChoiceTable, Path, guess, semi_structured
from harness.kernels.sparse.launch import SparseWeight
from harness.kernels.sparse.two_four import TwoFourWeight


class SparseLinear(OpaqueLinear):
    """y = x Wᵀ + b with a packed W. Shapes alone decide how, so that a CUDA graph can capture a decoding step."""

    def __init__(
        self, weight: SparseWeight, bias: Tensor | None, scratch: Scratch, table: ChoiceTable | None = None
    ) -> None:
        super().__init__(weight.in_features, weight.rows)
        self.table = table or guess(weight)
        self._weight = weight
        self._bias = bias
        self._scratch = scratch
        self._structured = self._second_copy()
        if any(choice.path is Path.EXPAND for choice in self.table.choices):
            scratch.reserve(launch.dense_elements(weight))

    @property
    def packed_bytes(self) -> int:
        """Bytes of the weight that a kernel reads."""
        return self._weight.held_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of the weight in every form that the layer keeps; the bias is a parameter, the scratch the model's."""
        return self.packed_bytes + (0 if self._structured is None else int(self._structured.packed.nbytes))

    @torch.no_grad()
    def multiply(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features], contiguous, which cuSPARSELt's own result is not."""
        flat = x.reshape(-1, self.in_features)
        choice = self.table.choose(flat.shape[0])
        if choice.path is Path.KERNEL and choice.launch is not None:
            y = launch.multiply(self._weight, flat, choice.launch)
            y = y if self._bias is None else y + self._bias
        elif choice.path is Path.CUSPARSELT:
            y = nn.functional.linear(flat, self._structured, self._bias)
        else:
            y = nn.functional.linear(flat, launch.expand(self._weight, self._scratch.like(x)), self._bias)
        return y.contiguous().view(*x.shape[:-1], self.out_features)

    def _second_copy(self) -> Any:
        if not self.table.needs_cusparselt:
            return None
        if not isinstance(self._weight, TwoFourWeight):
            raise Unsupported(
                Reason.FORMAT,
                "cuSPARSELt multiplies 2:4 weights alone, and this layer's has no such pattern",
                hint="measure this layer's table with its own weight",
            )
        return semi_structured(self._weight)
