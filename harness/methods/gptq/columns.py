"""GPTQ's way through the columns: round one, and let the later ones make up for its error (Algorithm 1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.methods.gptq.grid import GridRule, Grids
from harness.methods.numerics.captured import Captured
from harness.methods.numerics.columns import compensate, one_thread, settle_columns, stack_transposed
from harness.methods.numerics.hessian import InverseFactor
from harness.quantization.weight import QuantizedWeight

_SUBBLOCK = 32
"""Columns of a block that are brought up to date by one matrix product."""


@dataclass(frozen=True)
class Quantized:
    """`error`: the sum over all weights of half their squared scaled error, a float32 scalar."""

    weight: QuantizedWeight
    error: Tensor


class Quantizer:
    """Algorithm 1 for matrices that read the same inputs, any number of times; `log` is told what went otherwise.

    `group_size` 0 is a whole row. Whole rows and static groups have their grids fitted to the weights as they were;
    other groups when their first column is reached, to weights that all errors so far were taken off.
    """

    def __init__(
        self, rule: GridRule, group_size: int, *, static_groups: bool, blocksize: int, log: Callable[[str], None]
    ) -> None:
        self._rule = rule
        self._group_size = group_size
        self._fit_first = static_groups or group_size == 0
        self._blocksize = blocksize
        self._round = Captured(round_block, log)

    def quantize(self, weights: Sequence[Tensor], factor: InverseFactor, order: Tensor | None) -> list[Quantized]:
        """Quantize matrices [rows, in_features]; the weights given are left as they are.

        `order`: int64 [in_features], the columns in the order in which the factor has them; None as they are. Rows do
        not touch each other, so all matrices go through the columns together.
        """
        matrix = stack_transposed(weights)
        if order is not None:
            matrix = matrix[order]
        matrix.masked_fill_(factor.dead.unsqueeze(1), 0)
        group_of = self._group_of(matrix, order)
        grids = self._first_grids(matrix, order)
        codes = torch.empty(matrix.shape, dtype=torch.uint8, device=matrix.device)
        loss = torch.zeros(matrix.shape[1], dtype=torch.float32, device=matrix.device)
        for start, stop in self._blocks(len(matrix)):
            if not self._fit_first and start % self._group_size == 0:
                self._fit_group(matrix, start, grids)
            group = group_of[start:stop]
            scale, zero = grids.scale[group], grids.zero[group]
            unit = factor.unit[start:stop, start:stop]
            with one_thread(matrix.device):
                steps, errors = self._round(matrix[start:stop], unit, scale, -zero, self._rule.largest_code - zero)
                codes[start:stop] = steps + zero
                loss += (errors / factor.diagonal[start:stop].unsqueeze(1)).square_().sum(0)
            compensate(matrix, factor.unit, start, stop, errors)
        return self._split(weights, codes, grids, loss, order)

    def _group_of(self, matrix: Tensor, order: Tensor | None) -> Tensor:
        """The group of each column, in the order of the factor: int64 [in_features]."""
        columns = torch.arange(len(matrix), device=matrix.device)
        if self._group_size == 0:
            return torch.zeros_like(columns)
        return (order if order is not None and self._fit_first else columns) // self._group_size

    def _first_grids(self, matrix: Tensor, order: Tensor | None) -> Grids:
        """All grids, where they are fitted first; else room for them."""
        size = self._group_size or len(matrix)
        if self._fit_first:
            original = matrix if order is None else matrix[order.argsort()]
            return self._rule.fit(original.view(-1, size, matrix.shape[1]))
        room = matrix.new_zeros(len(matrix) // size, matrix.shape[1])
        return Grids(room, room.clone())

    def _fit_group(self, matrix: Tensor, start: int, grids: Grids) -> None:
        fitted = self._rule.fit(matrix[start : start + self._group_size].unsqueeze(0))
        grids.scale[start // self._group_size] = fitted.scale[0]
        grids.zero[start // self._group_size] = fitted.zero[0]

    def _blocks(self, columns: int) -> list[tuple[int, int]]:
        """Runs of at most `blocksize` columns. A group that is fitted on the way starts a block of its own."""
        span = columns if self._fit_first else self._group_size
        return [
            (start, min(start + self._blocksize, first + span))
            for first in range(0, columns, span)
            for start in range(first, first + span, self._blocksize)
        ]

    def _split(
        self, weights: Sequence[Tensor], codes: Tensor, grids: Grids, loss: Tensor, order: Tensor | None
    ) -> list[Quantized]:
        """The results of the single matrices, with the columns in their own order."""
        group_of = None
        if order is not None:
            place = order.argsort()
            codes = codes[place]
            if not self._fit_first and len(grids.scale) > 1:
                group_of = (place // self._group_size).to(torch.int32)
        heights = [weight.shape[0] for weight in weights]
        parts = (torch.split(tensor, heights, dim=-1) for tensor in (codes, grids.scale, grids.zero, loss))
        return [
            Quantized(
                weight=QuantizedWeight(
                    codes=code.T.contiguous(),
                    scale=scale.T.to(self._rule.scale_dtype).contiguous(),
                    zero=zero.T.to(torch.uint8).contiguous(),
                    bits=self._rule.bits,
                    symmetric=self._rule.symmetric,
                    group_of=group_of,
                ),
                error=lost.sum() / 2,
            )
            for code, scale, zero, lost in zip(*parts, strict=True)
        ]


def round_block(block: Tensor, unit: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Round a block, [columns, rows], column by column: how many scales each weight became, and the errors.

    `scale`, `low` and `high` (the least and the largest of those numbers) are of the block's shape.
    """
    steps = torch.empty_like(block)

    def settle(index: int, column: Tensor, error: Tensor) -> None:
        step = torch.div(column, scale[index], out=steps[index]).round_()
        torch.clamp(step, low[index], high[index], out=step)
        torch.addcmul(column, step, scale[index], value=-1, out=error)

    return steps, settle_columns(block, unit, _SUBBLOCK, lambda start, stop: settle)
