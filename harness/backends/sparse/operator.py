"""A sparse layer as one operator of torch's, so that a compiled model calls it instead of tracing into its kernels."""

from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from harness.backends.sparse.dispatch import SparseLinear

_layers: WeakValueDictionary[int, SparseLinear] = WeakValueDictionary()
_numbers = count()


@torch.library.custom_op("llmcbench::sparse_linear", mutates_args=())
def _sparse_linear(x: Tensor, layer: int, rows: int) -> Tensor:
    """[..., in_features] to [..., rows] by the layer of that number; `rows` is all that tracing needs to know of it."""
    y: Tensor = _layers[layer](x)
    return y


@_sparse_linear.register_fake
def _traced(x: Tensor, layer: int, rows: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], rows)


class OpaqueSparseLinear(nn.Module):
    """Computes what `layer` computes. Neither torch.compile nor export looks inside."""

    def __init__(self, layer: SparseLinear) -> None:
        super().__init__()
        self.layer = layer
        self._number = next(_numbers)
        self._rows = layer.out_features
        _layers[self._number] = layer

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        y: Tensor = _sparse_linear(x, self._number, self._rows)
        return y
