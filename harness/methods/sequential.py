"""Block-by-block compression: observe a block's inputs, compress its linears, and only then feed the next block.

This is the skeleton of SparseGPT, Wanda and GPTQ (their `*_sequential` functions): each block sees what its compressed
predecessors produce. A method that searches a whole block, or follows two streams, uses `open_stream`, `observe` and
`resident` with a loop of its own.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from harness.contract import LayerReport
from harness.methods.stream import ActivationStream, resident
from harness.models.blocks import Block, LinearGroup


class InputStatistic(Protocol):
    """Accumulates what a method needs to know about the inputs of a group of linears."""

    def add(self, inputs: Tensor, sequences: int) -> None:
        """Take in one batch: `inputs` is [tokens, in_features], of `sequences` calibration sequences."""


Statistic = TypeVar("Statistic", bound=InputStatistic)


class GroupCompressor(Protocol[Statistic]):
    """One method's part of the block-by-block skeleton."""

    def observer(self, group: LinearGroup) -> Statistic:
        """An empty statistic for a group of linears that read the same tensor."""

    def compress(self, group: LinearGroup, observed: Statistic) -> Sequence[LayerReport]:
        """Change the group's weights in place, and report each linear."""


class _AllObserved(Exception):
    """Every group has been reached, so the rest of the block need not be computed."""


class _Tap(Generic[Statistic]):
    """A hook that hands a linear's input to a statistic."""

    def __init__(self, statistic: Statistic, stream: ActivationStream, *, last: bool) -> None:
        self._statistic = statistic
        self._stream = stream
        self._last = last
        self.batch = 0

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs: Tensor = arguments[0]
        self._statistic.add(inputs.reshape(-1, inputs.shape[-1]), self._stream.hidden[self.batch].shape[0])
        if self._last:
            raise _AllObserved


def observe(
    stream: ActivationStream,
    block: Block,
    groups: Sequence[LinearGroup],
    observer: Callable[[LinearGroup], Statistic],
) -> list[Statistic]:
    """Run every batch through `block` and return one statistic for each of `groups` (in order of computation)."""
    statistics = [observer(group) for group in groups]
    taps = [_Tap(statistic, stream, last=statistic is statistics[-1]) for statistic in statistics]
    with ExitStack() as hooks:
        for group, tap in zip(groups, taps, strict=True):
            handle = group.linears[0].module.register_forward_pre_hook(tap)
            hooks.callback(handle.remove)
        for batch in range(len(stream.hidden)):
            for tap in taps:
                tap.batch = batch
            try:
                stream.forward(block, batch)
            except _AllObserved:
                continue
    return statistics


@torch.no_grad()
def compress_blocks(
    blocks: Sequence[Block],
    stream: ActivationStream,
    compressor: GroupCompressor[Statistic],
    *,
    device: torch.device,
    true_sequential: bool,
    finished: Callable[[int], None],
) -> tuple[LayerReport, ...]:
    """Compress all blocks in place. `true_sequential` observes each group after its predecessors were compressed.

    `finished` is called with the number of blocks done. The stream ends behind the last block but one.
    """
    reports: list[LayerReport] = []
    for block in blocks:
        rounds = [(group,) for group in block.groups] if true_sequential else [block.groups]
        with resident(block, device):
            for groups in rounds:
                statistics = observe(stream, block, groups, compressor.observer)
                for group, statistic in zip(groups, statistics, strict=True):
                    reports += compressor.compress(group, statistic)
            if block is not blocks[-1]:
                stream.advance(block)
        finished(block.index + 1)
    return tuple(reports)
