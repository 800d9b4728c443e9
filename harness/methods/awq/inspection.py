"""How far a changed weight moves an output: of the linear itself, or of the whole module that it is in.

For a linear alone, the mean squared change follows from the second moments of its inputs, whatever their number:
mean ‖(W' - W)x‖² = Σ ((W' - W)G) ∘ (W' - W) with G = mean xxᵀ. A module (attention, gated feed-forward part) is run
again on inputs that were recorded when the unchanged block was run, and no longer than it takes to see that it loses.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.methods.skeleton.stream import ActivationStream


class Inspection(Protocol):
    """The mean squared change of an output."""

    def loss(self, weights: Sequence[Tensor], most: float) -> float:
        """With these weights, [rows, in_features] each, in place of the linears' own.

        A loss above `most` may be given as infinity. NaN or infinity: the output, or what is made of it, overflows.
        """


class LinearInspection:
    """Of one linear. `moments` is mean xxᵀ over its inputs, [in_features, in_features]."""

    def __init__(self, linear: nn.Linear, moments: Tensor) -> None:
        self._weight = linear.weight
        self._moments = moments

    def loss(self, weights: Sequence[Tensor], most: float) -> float:
        change = weights[0] - self._weight
        with tensor_cores(change.device):
            moved = change @ self._moments.to(change.dtype)
        return float(moved.mul_(change).sum(dtype=torch.float64)) / len(change)


class ModuleInspection:
    """Of the module that was recorded, in which `linears` are."""

    def __init__(self, recording: "ModuleRecording", linears: Sequence[nn.Linear]) -> None:
        self._recording = recording
        self._linears = linears

    def loss(self, weights: Sequence[Tensor], most: float) -> float:
        with _replaced(self._linears, weights):
            return self._recording.loss(most)


@dataclass(frozen=True)
class _Call:
    """What a module is given besides its first argument, whose keyword is `first` (None: it has no keyword)."""

    first: str | None
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


class ModuleRecording:
    """What a module of a block is given and gives back in some `batches` of the stream, while the block is run.

    The tensors wait where the stream keeps its own batches: on the device, or in host memory if it offloads them.
    """

    def __init__(self, module: nn.Module, stream: ActivationStream, batches: Sequence[int]) -> None:
        self._module = module
        self._place = {batch: place for place, batch in enumerate(batches)}
        self.inputs = _room(stream, batches)
        self.outputs = _room(stream, batches)
        self._calls: dict[tuple[int, ...], _Call] = {}
        self._batch = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Watch the module: within, every batch of the stream is to be run once, in order."""
        with ExitStack() as hooks:
            hooks.callback(self._module.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            hooks.callback(self._module.register_forward_hook(self._after).remove)
            yield

    def loss(self, most: float = math.inf) -> float:
        """The mean squared difference between what the module gives now and what it gave.

        Infinity as soon as the batches so far bring it above `most`, since no later one makes it less.
        """
        total = 0.0
        count = sum(outputs.numel() for outputs in self.outputs.hidden)
        for place in range(len(self.inputs.hidden)):
            difference = self._run(self.inputs.inputs(place)).sub_(self.outputs.inputs(place))
            exact = torch.promote_types(difference.dtype, torch.float32)
            norm = float(torch.linalg.vector_norm(difference, dtype=exact))
            total += norm * norm
            if total / count > most:
                return math.inf
        return total / count

    def _before(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if self._batch not in self._place:
            return
        if arguments:
            hidden, call = arguments[0], _Call(None, arguments[1:], keywords)
        else:
            name = next(iter(keywords))
            rest = {key: value for key, value in keywords.items() if key != name}
            hidden, call = keywords[name], _Call(name, (), rest)
        self.inputs.put(self._place[self._batch], hidden)
        self._calls.setdefault(tuple(hidden.shape), call)

    def _after(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if self._batch in self._place:
            self.outputs.put(self._place[self._batch], _first(output))
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


def _room(stream: ActivationStream, batches: Sequence[int]) -> ActivationStream:
    """Places for so many batches, where `stream` keeps its own."""
    room = stream.copy()
    room.hidden = [stream.hidden[batch] for batch in batches]
    return room


def _first(output: Any) -> Tensor:
    """Attention returns a tuple that starts with its output."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor
