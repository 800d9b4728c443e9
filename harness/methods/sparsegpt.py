"""SparseGPT (Frantar and Alistarh, 2023, arXiv:2301.00774, Algorithm 1): one-shot pruning with weight reconstruction.

Covered: unstructured and n:m sparsity. Not covered: the joint quantization of section 3.5.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from harness.architectures.blocks import Block, LinearGroup
from harness.contract import CompressParameters, Frozen, LayerReport
from harness.errors import BadRequest
from harness.methods.base import CompressionContext, Outcome
from harness.methods.numerics.captured import Captured
from harness.methods.numerics.columns import Settle, compensate, one_thread, settle_columns, stack_transposed
from harness.methods.numerics.hessian import Hessian, InverseFactor, damping_notes, factor_inverse
from harness.methods.numerics.masks import smallest_of_columns, up_to_rank
from harness.methods.skeleton.saving import finish
from harness.methods.skeleton.sequential import GroupResult, Sequential, compress_blocks
from harness.methods.sparsity import Target, refuse_broken_patterns, sparsity_of, target_of
from harness.models.loading import TORCH_DTYPES
from harness.options import parse_options
from harness.telemetry import Stopwatch

_SUBBLOCK = 32
"""Columns of an unstructured block that are brought up to date by one matrix product."""


class SparseGptOptions(Frozen):
    """`percdamp` is the share of the Hessian's mean diagonal that is added to it; `batch_size` counts sequences."""

    blocksize: PositiveInt = 128
    percdamp: float = Field(default=0.01, ge=0, le=1)
    true_sequential: bool = False
    batch_size: PositiveInt = 4


OPTIONS = {"sparsegpt": SparseGptOptions}


def parse(parameters: CompressParameters) -> "SparseGpt":
    """Read the setting and the options of a request.

    Raises:
        Unsupported: the setting is a quantization.
        BadRequest: an option is unknown or out of range, or the blocks would cut through a pattern.
    """
    setting = parameters.setting
    target = target_of(setting, "sparsegpt")
    options = parse_options(SparseGptOptions, parameters.options, "sparsegpt")
    if setting.zeros_of is not None and options.blocksize % setting.zeros_of[1]:
        raise BadRequest(
            f"blocksize {options.blocksize} is not a multiple of {setting.zeros_of[1]}, the length of {setting.name}",
            hint="use a blocksize that the pattern divides, such as 128",
        )
    return SparseGpt(target, options)


class SparseGpt:
    """A parsed request; see `harness.methods.base.Compressor`."""

    def __init__(self, target: Target, options: SparseGptOptions) -> None:
        self._target = target
        self.options = options

    def check(self, blocks: Sequence[Block]) -> None:
        refuse_broken_patterns(blocks, self._target)

    def compress(self, context: CompressionContext) -> Outcome:
        work = _Work(self._target, self.options, context)
        skeleton = Sequential(
            context, work, batch_size=self.options.batch_size, true_sequential=self.options.true_sequential
        )
        return finish(context, compress_blocks(context, skeleton), sparsity=sparsity_of(self._target))


class _Work:
    """SparseGPT's part of the block-by-block skeleton."""

    def __init__(self, target: Target, options: SparseGptOptions, context: CompressionContext) -> None:
        self._options = options
        self._context = context
        self._pruner = Pruner(target, options.blocksize, context.reporter.log)

    def observer(self, group: LinearGroup) -> Hessian:
        return Hessian(group, self._context.device)

    def compress(self, group: LinearGroup, observed: Hessian) -> GroupResult:
        weights = [linear.module.weight for linear in group.linears]
        storage = TORCH_DTYPES[self._context.storage_dtype]
        with Stopwatch(self._context.device) as watch:
            factor = factor_inverse(group, observed.matrix, self._options.percdamp)
            results = self._pruner.prune(weights, factor)
            for weight, result in zip(weights, results, strict=True):
                weight.copy_(result.weight.to(storage))
            zeros = [(weight == 0).sum() for weight in weights]
            figures = torch.stack([figure.double() for figure in (*zeros, *(one.error for one in results))]).tolist()
        rows = sum(weight.shape[0] for weight in weights)
        reports = tuple(
            LayerReport(
                name=linear.name,
                sparsity=zeros / weight.numel(),
                error=error,
                seconds=watch.seconds * weight.shape[0] / rows,
            )
            for linear, weight, zeros, error in zip(
                group.linears, weights, figures[: len(weights)], figures[len(weights) :], strict=True
            )
        )
        return GroupResult(layers=reports, notes=damping_notes(group, factor, self._options.percdamp))


@dataclass(frozen=True)
class Pruned:
    """`weight`: float32 [rows, in_features]. `error`: the sum over all weights of half their squared scaled error."""

    weight: Tensor
    error: Tensor


class Pruner:
    """Algorithm 1 for matrices that read the same inputs, any number of times; `log` is told what went otherwise."""

    def __init__(self, target: Target, blocksize: int, log: Callable[[str], None]) -> None:
        self._target = target
        self._blocksize = blocksize
        self._eliminate = Captured(
            eliminate_masked if isinstance(target, float) else partial(eliminate_pattern, target=target), log
        )

    def prune(self, weights: Sequence[Tensor], factor: InverseFactor) -> list[Pruned]:
        """Prune matrices [rows, in_features]; the weights given are left as they are.

        Rows do not touch each other, so all matrices go through the columns together; only the threshold of
        unstructured pruning is each matrix's own.
        """
        heights = [weight.shape[0] for weight in weights]
        matrix = stack_transposed(weights)
        matrix.masked_fill_(factor.dead.unsqueeze(1), 0)
        loss = torch.zeros(matrix.shape[1], dtype=torch.float32, device=matrix.device)
        for start in range(0, len(matrix), self._blocksize):
            stop = min(start + self._blocksize, len(matrix))
            diagonal = factor.diagonal[start:stop].unsqueeze(1)
            with one_thread(matrix.device):
                errors = self._prune_block(matrix[start:stop], factor.unit[start:stop, start:stop], diagonal, heights)
                loss += (errors / diagonal).square_().sum(0)
            compensate(matrix, factor.unit, start, stop, errors)
        parts = zip(torch.split(matrix, heights, dim=1), torch.split(loss, heights), strict=True)
        return [Pruned(weight=part.T, error=half.sum() / 2) for part, half in parts]

    def _prune_block(self, block: Tensor, unit: Tensor, diagonal: Tensor, heights: list[int]) -> Tensor:
        """Prune a block of columns in place, [columns, rows], and return their errors, of the same shape."""
        if isinstance(self._target, float):
            pruned, errors = self._eliminate(block, unit, _chosen(block / diagonal, heights, self._target))
        else:
            pruned, errors = self._eliminate(block, unit, diagonal)
        block.copy_(pruned)
        return errors


def _chosen(scores: Tensor, heights: list[int], ratio: float) -> Tensor:
    """1 where a weight goes, else 0: each matrix loses, in this block, its scores up to the one at rank `ratio`."""
    masks = [
        up_to_rank(part, min(int(part.numel() * ratio), part.numel() - 1))
        for part in torch.split(scores.abs(), heights, dim=1)
    ]
    return torch.cat(masks, dim=1).to(scores.dtype)


def eliminate_masked(block: Tensor, unit: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Set the chosen weights of a block to zero, column by column: the pruned block, and the errors."""

    def settle(index: int, column: Tensor, error: Tensor) -> None:
        torch.mul(column, chosen[index], out=error)

    errors = settle_columns(block, unit, _SUBBLOCK, lambda start, stop: settle)
    return block.sub_(errors), errors


def eliminate_pattern(
    block: Tensor, unit: Tensor, diagonal: Tensor, *, target: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The same where the masks adapt: they are chosen once the earlier columns' errors are taken in."""
    zeros, length = target

    def decide(start: int, stop: int) -> Settle:
        scores = (block[start:stop] / diagonal[start:stop]).abs_()
        chosen = smallest_of_columns(scores, zeros).to(block.dtype)

        def settle(index: int, column: Tensor, error: Tensor) -> None:
            torch.mul(column, chosen[index - start], out=error)

        return settle

    errors = settle_columns(block, unit, length, decide)
    return block.sub_(errors), errors
