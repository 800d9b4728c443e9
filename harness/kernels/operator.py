"""A layer as one operator of torch's, so that a compiled model calls it instead of tracing into its kernels."""

from abc import ABC, abstractmethod
from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn


class OpaqueLinear(nn.Module, ABC):
    """A linear that `multiply` computes. Neither torch.compile nor export looks inside. Inference only."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._number = next(_numbers)
        _layers[self._number] = self

    @abstractmethod
    def multiply(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features] in x's dtype; the result is no view of x."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _multiply(x, self._number, self.out_features)
        return y


_layers: WeakValueDictionary[int, OpaqueLinear] = WeakValueDictionary()
_numbers = count()


@torch.library.custom_op("llmcbench::opaque_linear", mutates_args=())
def _multiply(x: Tensor, layer: int, rows: int) -> Tensor:
    """By the layer of that number; `rows` is all that tracing needs to know of it."""
    return _layers[layer].multiply(x)


@_multiply.register_fake
def _traced(x: Tensor, layer: int, rows: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], rows)
