"""How far a changed weight moves an output: of the linear itself, or of the whole module that it is in.

For a linear alone, the mean squared change follows from the second moments of its inputs, whatever their number:
mean ‖(W' - W)x‖² = Σ ((W' - W)G) ∘ (W' - W) with G = mean xxᵀ. A module (attention, gated feed-forward part) is run
again on all inputs, which were recorded when the unchanged block was run.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.methods.skeleton.stream import ActivationStream


class Inspection(Protocol):
    """The mean squared change of an output."""

    def loss(self, weights: Sequence[Tensor]) -> Tensor:
        """With these weights, [rows, in_features] each, in place of the linears' own; a scalar on the device."""


class LinearInspection:
    """Of one linear. `moments` is mean xxᵀ over its inputs, [in_features, in_features]."""

    def __init__(self, linear: nn.Linear, moments: Tensor) -> None:
        self._weight = linear.weight
        self._moments = moments

    def loss(self, weights: Sequence[Tensor]) -> Tensor:
        change = weights[0] - self._weight
        with tensor_cores(change.device):
            moved = change @ self._moments.to(change.dtype)
        return moved.mul_(change).sum(dtype=torch.float64) / len(change)


class ModuleInspection:
    """Of the module that was recorded, in which `linears` are."""

    def __init__(self, recording: "ModuleRecording", linears: Sequence[nn.Linear]) -> None:
        self._recording = recording
        self._linears = linears

    def loss(self, weights: Sequence[Tensor]) -> Tensor:
        with _replaced(self._linears, weights):
            return self._recording.loss()


@dataclass(frozen=True)
class _Call:
    """What a module is given besides its first argument, whose keyword is `first` (None: it has no keyword)."""

    first: str | None
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


class ModuleRecording:
    """What a module of a block is given and gives back, batch by batch, while `recording` the block's run.

    The tensors wait where the stream keeps its own batches: on the device, or in host memory if it offloads them.
    """

    def __init__(self, module: nn.Module, stream: ActivationStream) -> None:
        self._module = module
        self._inputs = stream.copy()
        self._outputs = stream.copy()
        self._calls: dict[tuple[int, ...], _Call] = {}
        self._batch = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Watch the module: within, every batch of the stream is to be run once, in order."""
        with ExitStack() as hooks:
            hooks.callback(self._module.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            hooks.callback(self._module.register_forward_hook(self._after).remove)
            yield

    def loss(self) -> Tensor:
        """The mean squared difference between what the module gives now and what it gave; float64, on the device."""
        total: Tensor | float = 0.0
        outputs = 0
        for batch in range(len(self._inputs.hidden)):
            difference = self._run(self._inputs.inputs(batch)).sub_(self._outputs.inputs(batch))
            exact = torch.promote_types(difference.dtype, torch.float32)
            total = total + torch.linalg.vector_norm(difference, dtype=exact).double().square()
            outputs += difference.numel()
        assert isinstance(total, Tensor)  # noqa: S101  there is at least one batch
        return total / outputs

    def _before(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if arguments:
            hidden, call = arguments[0], _Call(None, arguments[1:], keywords)
        else:
            name = next(iter(keywords))
            rest = {key: value for key, value in keywords.items() if key != name}
            hidden, call = keywords[name], _Call(name, (), rest)
        self._inputs.put(self._batch, hidden)
        self._calls.setdefault(tuple(hidden.shape), call)

    def _after(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self._outputs.put(self._batch, _first(output))
        self._batch += 1

    def _run(self, hidden: Tensor) -> Tensor:
        call = self._calls[tuple(hidden.shape)]
        if call.first is None:
            return _first(self._module(hidden, *call.arguments, **call.keywords))
        return _first(self._module(**{call.first: hidden}, **call.keywords))


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """On a GPU, let float32 products round their factors to TF32: for sums of which only a few digits matter."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _replaced(linears: Sequence[nn.Linear], weights: Sequence[Tensor]) -> Iterator[None]:
    """Give the linears other weights, in their dtype, without touching their own."""
    own = [linear.weight.data for linear in linears]
    try:
        for linear, weight in zip(linears, weights, strict=True):
            linear.weight.data = weight.to(linear.weight.dtype)
        yield
    finally:
        for linear, weight in zip(linears, own, strict=True):
            linear.weight.data = weight


def _first(output: Any) -> Tensor:
    """Attention returns a tuple that starts with its output."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor
