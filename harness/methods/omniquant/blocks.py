"""OmniQuant's way through the blocks: what each is trained on, what becomes of it, and what feeds the next.

Two streams of activations: one through the uncompressed model, whose outputs are the targets, and one through the
blocks quantized so far, whose outputs are the inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.architectures.blocks import Block
from harness.contract import LayerReport, Quantization
from harness.methods.base import CompressionContext
from harness.methods.numerics.rounding import RoundingGrid
from harness.methods.omniquant.activations import quantized_activations
from harness.methods.omniquant.rounding import choose_kernels
from harness.methods.omniquant.training import QuantizedBlock, Schedule, Targets, mean_error, squared_error, train
from harness.methods.omniquant.transform import ChannelRange, EquivalentTransformation, plan_transformation
from harness.methods.skeleton.finished import BlockResult
from harness.methods.skeleton.sequential import observe, put_quantized, round_parameters
from harness.methods.skeleton.stream import ActivationStream, open_stream
from harness.telemetry import Stopwatch


@dataclass(frozen=True)
class Recipe:
    """A run with nothing left open. `packed`: whether the weights are stored as codes."""

    schedule: Schedule
    lwc: bool
    let: bool
    alpha: float
    aug_loss: bool
    query_key: bool
    shift: bool
    batch_size: int
    packed: bool


class OmniQuantWork:
    """OmniQuant's part of `compress_blocks`."""

    def __init__(
        self, context: CompressionContext, recipe: Recipe, grid: RoundingGrid, quantization: Quantization
    ) -> None:
        self._context = context
        self._recipe = recipe
        self._grid = grid
        self._quantization = quantization
        self._kernels = choose_kernels(context.device, context.reporter.log)
        self._dense = open_stream(
            context.model,
            context.blocks,
            context.sequences,
            batch_size=recipe.batch_size,
            device=context.device,
            offload=context.offload_activations,
        )
        self._compressed = self._dense.copy()

    def compress(self, block: Block) -> BlockResult:
        with Stopwatch(self._context.device) as watch:
            learner = QuantizedBlock(
                block,
                self._grid,
                self._kernels,
                clipping=self._recipe.lwc,
                transformation=self._start_transformation(block),
                dtype=self._recipe.schedule.dtype,
            )
            targets = Targets(self._compressed, self._dense, self._same_inputs(block))
            with quantized_activations(block, self._quantization):
                before = mean_error(learner, targets)
                train(block, learner, targets, self._recipe.schedule)
            quantized = learner.fold()
            for linear in block.linears:
                put_quantized(linear.module.weight, quantized[linear.name], self._context)
            round_parameters(block, self._context)
            after = self._advance(block)
        return BlockResult(
            layers=_reports(block, after, watch.seconds),
            notes=_loss_notes(block, before, after),
            quantized=quantized if self._recipe.packed else {},
        )

    def skip(self, block: Block, restore: Callable[[], None]) -> None:
        self._dense.advance(block)
        restore()
        self._advance(block)

    def _start_transformation(self, block: Block) -> EquivalentTransformation | None:
        """Moves the stream of the uncompressed model behind the block, and looks at it on the way where need be."""
        if not self._recipe.let:
            self._dense.advance(block)
            return None
        seen = observe(
            self._dense, block, block.groups, partial(ChannelRange, device=self._context.device), advance=True
        )
        ranges = dict(zip(block.groups, seen, strict=True))
        plan = plan_transformation(block, query_key=self._recipe.query_key, shift=self._recipe.shift)
        return EquivalentTransformation(block, plan, ranges, self._recipe.alpha, stored_as=self._grid.scale_dtype)

    def _same_inputs(self, block: Block) -> ActivationStream | None:
        if not self._recipe.aug_loss:
            return None
        outputs = self._compressed.copy()
        outputs.advance(block)
        return outputs

    def _advance(self, block: Block) -> float:
        """Move the stream of the compressed model behind the block; returns its mean squared error there."""
        errors: list[Tensor] = []
        with quantized_activations(block, self._quantization):
            for batch in range(len(self._compressed.hidden)):
                outputs = self._compressed.forward(block, batch)
                errors.append(squared_error(outputs, self._dense.inputs(batch)))
                self._compressed.put(batch, outputs)
        self._compressed.check(block)
        return float(torch.stack(errors).mean())


def _reports(block: Block, error: float, seconds: float) -> tuple[LayerReport, ...]:
    """The block is trained as one: each linear has the block's error, and its share of the time by size."""
    weights = sum(linear.module.weight.numel() for linear in block.linears)
    return tuple(
        LayerReport(name=linear.name, error=error, seconds=seconds * linear.module.weight.numel() / weights)
        for linear in block.linears
    )


def _loss_notes(block: Block, before: float, after: float) -> tuple[str, ...]:
    if after <= before:
        return ()
    return (
        f"{block.name}: training made the block worse, from a mean squared error of {before:.4g} to {after:.4g}; "
        "lower learning rates or more calibration samples may help",
    )
