"""Low-rank adapters (LoRA, Hu et al., 2021, arXiv:2106.09685) on linears that stay as they are until merged."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from harness.architectures.blocks import NamedLinear


class Adapter(nn.Module):
    """Adds alpha/rank · B·A·x to a linear's output. A [rank, in] is random, B [out, rank] zero; both float32."""

    def __init__(self, target: nn.Linear, rank: int, alpha: float, dropout_share: float, draw: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(target.in_features)
        down = torch.empty(rank, target.in_features).uniform_(-bound, bound, generator=draw)
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(target.out_features, rank))
        self._scale = alpha / rank
        self._dropout_share = dropout_share

    def forward(self, inputs: Tensor) -> Tensor:
        seen = dropout(inputs, self._dropout_share, training=self.training)
        return self._scale * linear(linear(seen, self.down), self.up)

    def delta(self) -> Tensor:
        """What the adapter adds to its linear's weight, float32."""
        change: Tensor = self._scale * (self.up @ self.down)
        return change


class Adapters(nn.Module):
    """One adapter a linear, by the linear's name."""

    def __init__(
        self, linears: Sequence[NamedLinear], rank: int, alpha: float, dropout_share: float, seed: int
    ) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self._linears = tuple(linears)
        self._adapters = nn.ModuleList(Adapter(one.module, rank, alpha, dropout_share, draw) for one in self._linears)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the linears' outputs include what their adapters add."""
        handles = [
            one.module.register_forward_hook(partial(_add, adapter))
            for one, adapter in zip(self._linears, self._adapters, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def values(self) -> dict[str, Tensor]:
        """The trained tensors by name: live ones, not copies."""
        return {
            f"{one.name}.{part}": parameter.data
            for one, adapter in zip(self._linears, self._adapters, strict=True)
            for part, parameter in adapter.named_parameters()
        }

    @torch.no_grad()
    def set_values(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self.values().items():
            tensor.copy_(values[name])

    @torch.no_grad()
    def merge(self, storage: torch.dtype) -> None:
        """Add the adapters to their linears' weights, rounded once to the storage dtype."""
        for one, adapter in zip(self._linears, self._adapters, strict=True):
            assert isinstance(adapter, Adapter)  # noqa: S101  the list holds nothing else
            weight = one.module.weight
            weight.copy_((weight.float() + adapter.delta()).to(storage))


def _add(adapter: nn.Module, _: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    added: Tensor = adapter(arguments[0])
    return output + added.to(output.dtype)
