"""Block-by-block compression: observe a block's inputs, compress its linears, and only then feed the next block.

`compress_blocks` is what all methods that work block by block share: one block on the device at a time, kept when it is
finished, and taken up again after an interruption. `Sequential` is the skeleton of SparseGPT, Wanda and GPTQ (their
`*_sequential` functions) on it: each block sees what its compressed predecessors produce.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from harness.architectures.blocks import Block, LinearGroup
from harness.contract import LayerReport
from harness.errors import BadCheckpoint
from harness.methods.base import CompressionContext
from harness.methods.skeleton.finished import BlockResult
from harness.methods.skeleton.stream import ActivationStream, open_stream, resident
from harness.models.loading import TORCH_DTYPES
from harness.quantization.weight import QuantizedWeight
from harness.telemetry import Stopwatch


class BlockWork(Protocol):
    """One method's part of `compress_blocks`. It owns its streams; both functions move them behind the block."""

    def compress(self, block: Block) -> BlockResult:
        """Compress a block, which is on the device, in place; its parameters end as values of the storage dtype."""

    def skip(self, block: Block, restore: Callable[[], None]) -> None:
        """The block was compressed by an earlier attempt: `restore` puts the compressed parameters into it."""


@dataclass(frozen=True)
class BlockSummary:
    """All blocks together. `zeros` of `weights` is the sparsity of the linears."""

    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...]
    zeros: int
    weights: int
    resumed: int
    resumed_seconds: float


@torch.no_grad()
def compress_blocks(context: CompressionContext, work: BlockWork) -> BlockSummary:
    """Compress the blocks in order, or take those over that an earlier attempt finished.

    Raises:
        BadCheckpoint: a weight holds NaN or an infinity.
    """
    resumed, resumed_seconds = 0, 0.0
    context.reporter.progress(0, len(context.blocks), "layer")
    for block in context.blocks:
        with resident(block, context.device):
            if context.finished.has(block):
                with Stopwatch(context.device) as watch:
                    work.skip(block, partial(_restore, context, block))
                resumed += 1
                resumed_seconds += context.finished.facts(block).seconds - watch.seconds
            else:
                with Stopwatch(context.device) as watch:
                    refuse_damaged(block)
                    result = work.compress(block)
                context.finished.save(block, result, watch.seconds)
        context.reporter.progress(block.index + 1, len(context.blocks), "layer")
    if resumed:
        context.reporter.log(f"{resumed} of {len(context.blocks)} blocks were taken over from an interrupted attempt")
    return _summarise(context, resumed, resumed_seconds)


def round_parameters(block: Block, context: CompressionContext) -> None:
    """Make every parameter of the block what will be stored, so that the next block is fed by nothing else."""
    storage = TORCH_DTYPES[context.storage_dtype]
    for parameter in block.module.parameters():
        if parameter.dtype != storage:
            parameter.copy_(parameter.to(storage))


def put_quantized(weight: Tensor, quantized: QuantizedWeight, context: CompressionContext) -> None:
    """Give a linear, in place, the very values that its stored codes stand for."""
    weight.copy_(quantized.dequantize(TORCH_DTYPES[context.storage_dtype]))


def _restore(context: CompressionContext, block: Block) -> None:
    context.finished.load(block)


def refuse_damaged(block: Block) -> None:
    """Raise BadCheckpoint where a linear's weight holds NaN or an infinity."""
    for linear in block.linears:
        if not bool(torch.isfinite(linear.module.weight).all()):
            raise BadCheckpoint(
                f"the weight of {linear.name} holds NaN or infinity", hint="fetch the checkpoint again, or repair it"
            )


def _summarise(context: CompressionContext, resumed: int, resumed_seconds: float) -> BlockSummary:
    facts = [context.finished.facts(block) for block in context.blocks]
    return BlockSummary(
        layers=tuple(layer for one in facts for layer in one.layers),
        notes=tuple(note for one in facts for note in one.notes),
        zeros=sum(one.zeros for one in facts),
        weights=sum(one.weights for one in facts),
        resumed=resumed,
        resumed_seconds=resumed_seconds,
    )


class InputStatistic(Protocol):
    """Accumulates what a method needs to know about the inputs of a group of linears."""

    def add(self, inputs: Tensor, sequences: int) -> None:
        """Take in one batch: `inputs` is [tokens, in_features], of `sequences` calibration sequences."""


Statistic = TypeVar("Statistic", bound=InputStatistic)


@dataclass(frozen=True)
class GroupResult:
    """What became of one group; see `BlockResult`."""

    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()
    quantized: Mapping[str, QuantizedWeight] = field(default_factory=dict)


class GroupCompressor(Protocol[Statistic]):
    """One method's part of the block-by-block skeleton."""

    def observer(self, group: LinearGroup) -> Statistic:
        """An empty statistic for a group of linears that read the same tensor."""

    def compress(self, group: LinearGroup, observed: Statistic) -> GroupResult:
        """Change the group's weights in place."""


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
    *,
    advance: bool = False,
) -> list[Statistic]:
    """Run every batch through `block` and return one statistic for each of `groups` (in order of computation).

    With `advance` the stream ends behind the block as it is, at no further cost: for methods whose next block is fed
    by the uncompressed one.
    """
    statistics = [observer(group) for group in groups]
    taps = [_Tap(statistic, stream, last=not advance and statistic is statistics[-1]) for statistic in statistics]
    with ExitStack() as hooks:
        for group, tap in zip(groups, taps, strict=True):
            handle = group.linears[0].module.register_forward_pre_hook(tap)
            hooks.callback(handle.remove)
        for batch in range(len(stream.hidden)):
            for tap in taps:
                tap.batch = batch
            try:
                outputs = stream.forward(block, batch)
            except _AllObserved:
                continue
            if advance:
                stream.put(batch, outputs)
    if advance:
        stream.check(block)
    return statistics


class Sequential(Generic[Statistic]):
    """The skeleton of SparseGPT, Wanda and GPTQ: statistics of the compressed model's inputs, group by group.

    `true_sequential` observes each group after its predecessors in the block were compressed.
    """

    def __init__(
        self,
        context: CompressionContext,
        compressor: GroupCompressor[Statistic],
        *,
        batch_size: int,
        true_sequential: bool = False,
    ) -> None:
        self._context = context
        self._compressor = compressor
        self._true_sequential = true_sequential
        self._stream = open_stream(
            context.model,
            context.blocks,
            context.sequences,
            batch_size=batch_size,
            device=context.device,
            offload=context.offload_activations,
        )

    def compress(self, block: Block) -> BlockResult:
        rounds = [(group,) for group in block.groups] if self._true_sequential else [block.groups]
        results: list[GroupResult] = []
        for groups in rounds:
            statistics = observe(self._stream, block, groups, self._compressor.observer)
            results += [self._compressor.compress(group, statistics.pop(0)) for group in groups]
        round_parameters(block, self._context)
        self._advance(block)
        return BlockResult(
            layers=tuple(layer for result in results for layer in result.layers),
            notes=tuple(note for result in results for note in result.notes),
            quantized={name: weight for result in results for name, weight in result.quantized.items()},
        )

    def skip(self, block: Block, restore: Callable[[], None]) -> None:
        restore()
        self._advance(block)

    def _advance(self, block: Block) -> None:
        if block is not self._context.blocks[-1]:
            self._stream.advance(block)
