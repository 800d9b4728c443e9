"""SparseGPT (Frantar and Alistarh, 2023, arXiv:2301.00774, Algorithm 1): one-shot pruning with weight reconstruction.

Weights are kept transposed here, [in_features, rows], so that the columns of the paper are contiguous. A column is
updated by the errors of its predecessors when it is reached, instead of updating all its successors at each step: the
same sums in another order. Covered: unstructured and n:m sparsity. Not covered: the joint quantization of section 3.5.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from harness.contract import CompressParameters, Frozen, LayerReport, Reason
from harness.errors import BadRequest, Unsupported
from harness.methods.base import CompressionContext, Outcome, parse_options
from harness.methods.hessian import Hessian, InverseFactor, factor_inverse
from harness.methods.sequential import compress_blocks
from harness.methods.stream import open_stream
from harness.models.blocks import Block, LinearGroup, NamedLinear, linears_of
from harness.models.loading import TORCH_DTYPES
from harness.telemetry import Stopwatch

Target = float | tuple[int, int]
"""A ratio of zeros in every block of columns, or (n, m): n zeros in every m consecutive columns of a row."""

_SUBBLOCK = 32
"""Columns of an unstructured block that are brought up to date by one matrix product."""


class SparseGptOptions(Frozen):
    """`percdamp` is the share of the Hessian's mean diagonal that is added to it; `batch_size` counts sequences."""

    blocksize: PositiveInt = 128
    percdamp: float = Field(default=0.01, ge=0, le=1)
    true_sequential: bool = False
    batch_size: PositiveInt = 4


def parse(parameters: CompressParameters) -> "SparseGpt":
    """Read the setting and the options of a request.

    Raises:
        Unsupported: the setting is a quantization.
        BadRequest: an option is unknown or out of range, or the blocks would cut through a pattern.
    """
    setting = parameters.setting
    target = setting.zeros_of or setting.ratio
    if target is None:
        raise Unsupported(
            Reason.SETTING,
            f"sparsegpt prunes, so it has no setting {setting.name!r}",
            hint="use a ratio such as '50%', or a pattern such as '2:4'",
        )
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
        if isinstance(self._target, float):
            return
        zeros, length = self._target
        uneven = [linear for linear in linears_of(blocks) if linear.module.in_features % length]
        if uneven:
            listed = ", ".join(f"{linear.name} ({linear.module.in_features})" for linear in uneven[:4])
            raise Unsupported(
                Reason.SHAPE,
                f"{zeros}:{length} needs input sizes that are multiples of {length}; "
                f"{len(uneven)} linear(s) have others: {listed}",
                hint="use a ratio such as '50%', or a pattern whose length divides every input size",
            )

    def compress(self, context: CompressionContext) -> Outcome:
        stream = open_stream(
            context.model,
            context.blocks,
            context.tokens,
            batch_size=self.options.batch_size,
            device=context.device,
        )
        work = _Work(self._target, self.options, context)
        layers = compress_blocks(
            context.blocks,
            stream,
            work,
            device=context.device,
            true_sequential=self.options.true_sequential,
            finished=lambda done: context.reporter.progress(done, len(context.blocks), "layer"),
        )
        return Outcome(layers=layers, notes=tuple(work.notes))


class _Work:
    """SparseGPT's part of the block-by-block skeleton."""

    def __init__(self, target: Target, options: SparseGptOptions, context: CompressionContext) -> None:
        self._target = target
        self._options = options
        self._context = context
        self.notes: list[str] = []

    def observer(self, group: LinearGroup) -> Hessian:
        return Hessian(group, self._context.device)

    def compress(self, group: LinearGroup, observed: Hessian) -> Sequence[LayerReport]:
        weights = [linear.module.weight for linear in group.linears]
        with Stopwatch(self._context.device) as watch:
            factor = factor_inverse(group, observed.matrix, self._options.percdamp)
            results = prune(weights, factor, self._target, self._options.blocksize)
            storage = TORCH_DTYPES[self._context.storage_dtype]
            for weight, result in zip(weights, results, strict=True):
                weight.copy_(result.weight.to(storage))
        if factor.damping > self._options.percdamp:
            self.notes.append(
                f"{group.linears[0].name}: damping raised from {self._options.percdamp:g} to {factor.damping:g}, "
                "since the Hessian was not positive definite"
            )
        rows = sum(weight.shape[0] for weight in weights)
        return [
            _report(linear, result, watch.seconds * linear.module.out_features / rows)
            for linear, result in zip(group.linears, results, strict=True)
        ]


def _report(linear: NamedLinear, result: "Pruned", seconds: float) -> LayerReport:
    zeros = int((linear.module.weight == 0).sum())
    sparsity = zeros / linear.module.weight.numel()
    return LayerReport(name=linear.name, sparsity=sparsity, error=result.error, seconds=seconds)


@dataclass(frozen=True)
class Pruned:
    """`weight`: float32 [rows, in_features]. `error`: the sum over all weights of half their squared scaled error."""

    weight: Tensor
    error: float


def prune(weights: Sequence[Tensor], factor: InverseFactor, target: Target, blocksize: int) -> list[Pruned]:
    """Prune matrices [rows, in_features] that read the same inputs; the weights given are left as they are.

    Rows do not touch each other, so all matrices go through the columns together; only the threshold of unstructured
    pruning is each matrix's own.
    """
    heights = [weight.shape[0] for weight in weights]
    matrix = torch.cat([weight.to(torch.float32) for weight in weights]).T.contiguous()
    matrix[factor.dead] = 0
    loss = torch.zeros(matrix.shape[1], dtype=torch.float32, device=matrix.device)
    for start in range(0, len(matrix), blocksize):
        stop = min(start + blocksize, len(matrix))
        with _one_thread(matrix.device):
            errors = _prune_block(matrix[start:stop], factor.upper[start:stop, start:stop], heights, target)
        loss += errors.square().sum(0)
        matrix[stop:].addmm_(factor.upper[start:stop, stop:].T, errors, alpha=-1)
    parts = zip(torch.split(matrix, heights, dim=1), torch.split(loss, heights), strict=True)
    return [Pruned(weight=part.T, error=float(half.sum()) / 2) for part, half in parts]


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, the many small steps of a block cost less than waking the other threads for each of them."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _prune_block(block: Tensor, upper: Tensor, heights: list[int], target: Target) -> Tensor:
    """Prune a block of columns in place, [columns, rows], and return their scaled errors, of the same shape."""
    errors = torch.empty_like(block)
    step, choose = _choice(block, upper.diagonal().unsqueeze(1), heights, target)
    for start in range(0, len(block), step):
        stop = min(start + step, len(block))
        if start:
            block[start:stop].addmm_(upper[:start, start:stop].T, errors[:start], alpha=-1)
        _eliminate(block[start:stop], choose(start, stop), upper[start:stop, start:stop], errors[start:stop])
    return errors


def _choice(
    block: Tensor, diagonal: Tensor, heights: list[int], target: Target
) -> tuple[int, Callable[[int, int], Tensor]]:
    """How many columns to take at a time, and what says which of their weights go, once they are up to date.

    Unstructured masks are chosen for the block as it is now; patterns adapt to the errors of earlier columns.
    """
    if isinstance(target, float):
        mask = _unstructured_mask(block / diagonal, heights, target)
        return _SUBBLOCK, lambda start, stop: mask[start:stop]
    zeros, length = target
    return length, lambda start, stop: _pattern_mask(block[start:stop] / diagonal[start:stop], zeros)


def _unstructured_mask(scores: Tensor, heights: list[int], ratio: float) -> Tensor:
    """True where a weight goes: each matrix loses, in this block, its scores up to the one at rank `ratio`."""
    masks = []
    for part in torch.split(scores.square(), heights, dim=1):
        rank = min(int(part.numel() * ratio), part.numel() - 1)
        masks.append(part <= _ranked(part.flatten(), rank))
    return torch.cat(masks, dim=1)


def _ranked(values: Tensor, rank: int) -> float:
    """The value that stands at `rank` (from 0) in ascending order."""
    if values.device.type == "cpu":
        return float(np.partition(values.numpy(), rank)[rank])  # twenty times as fast as torch's kthvalue
    return float(values.kthvalue(rank + 1).values)


def _pattern_mask(scores: Tensor, zeros: int) -> Tensor:
    """True at the `zeros` smallest scores of each row's group: `scores` is [group, rows]."""
    smallest = scores.square().topk(zeros, dim=0, largest=False, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(0, smallest, value=True)


def _eliminate(columns: Tensor, zero: Tensor, upper: Tensor, errors: Tensor) -> None:
    """Column by column: apply the errors so far, set the pruned weights to zero, and note their scaled error."""
    share = zero / upper.diagonal().unsqueeze(1)
    for index in range(len(columns)):
        column = columns[index]
        if index:
            column.addmv_(errors[:index].T, upper[:index, index], alpha=-1)
        torch.mul(column, share[index], out=errors[index])
    columns.masked_fill_(zero, 0)
