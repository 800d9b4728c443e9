"""Magnitude pruning: the smallest weights of each linear become zero. What every pruning method is held against.

The rule of the baseline in the SparseGPT and Wanda authors' code: a ratio is one threshold for the whole linear, so
that rows differ; a pattern keeps, of each m consecutive weights of a row, the largest. No text is looked at.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from harness.architectures.blocks import Block
from harness.contract import CompressParameters, LayerReport
from harness.methods.base import CompressionContext, Outcome
from harness.methods.numerics.masks import smallest_of_groups, smallest_of_rows
from harness.methods.skeleton.finished import BlockResult
from harness.methods.skeleton.saving import finish
from harness.methods.skeleton.sequential import compress_blocks, round_parameters
from harness.methods.sparsity import Target, refuse_broken_patterns, sparsity_of, target_of
from harness.options import NoOptions, parse_options
from harness.telemetry import Stopwatch

OPTIONS = {"magnitude": NoOptions}


def parse(parameters: CompressParameters) -> "Magnitude":
    """Read the setting of a request.

    Raises:
        Unsupported: the setting is a quantization.
        BadRequest: an option is given; there are none.
    """
    target = target_of(parameters.setting, "magnitude")
    return Magnitude(target, parse_options(NoOptions, parameters.options, "magnitude"))


class Magnitude:
    """A parsed request; see `harness.methods.base.Compressor`."""

    def __init__(self, target: Target, options: NoOptions) -> None:
        self._target = target
        self.options = options

    def check(self, blocks: Sequence[Block]) -> None:
        refuse_broken_patterns(blocks, self._target)

    def compress(self, context: CompressionContext) -> Outcome:
        summary = compress_blocks(context, _Work(self._target, context))
        return finish(context, summary, sparsity=sparsity_of(self._target))


class _Work:
    """Magnitude pruning's part of `compress_blocks`."""

    def __init__(self, target: Target, context: CompressionContext) -> None:
        self._target = target
        self._context = context

    def compress(self, block: Block) -> BlockResult:
        reports = []
        for linear in block.linears:
            weight = linear.module.weight
            with Stopwatch(self._context.device) as watch:
                weight.masked_fill_(smallest(weight, self._target), 0)
                sparsity = float((weight == 0).float().mean())
            reports.append(LayerReport(name=linear.name, sparsity=sparsity, seconds=watch.seconds))
        round_parameters(block, self._context)
        return BlockResult(layers=tuple(reports))

    def skip(self, block: Block, restore: Callable[[], None]) -> None:
        restore()


def smallest(weight: Tensor, target: Target) -> Tensor:
    """True at the weights [rows, in_features] that go. Of equal magnitudes the first go first."""
    magnitudes = weight.float().abs()
    if isinstance(target, float):
        return smallest_of_rows(magnitudes.reshape(1, -1), int(magnitudes.numel() * target)).reshape(weight.shape)
    return smallest_of_groups(magnitudes, *target)
