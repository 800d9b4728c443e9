"""Linears of a pruned model computed from packed sparse weights, where that was measured to be faster here."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.backends.sparse import bitmask, two_four
from harness.backends.sparse.choice import ChoiceTable, measure
from harness.backends.sparse.dispatch import Scratch, SparseLinear
from harness.backends.sparse.launch import SparseWeight
from harness.backends.sparse.operator import OpaqueSparseLinear

_FEWEST_ZEROS = 0.3
"""The share below which the packed form is hardly smaller than the dense one."""


def use_sparse(blocks: Sequence[nn.Module], *, pattern: str, tokens: Sequence[int]) -> tuple[str, ...]:
    """Replace linears of `blocks` in place; returns notes that say how many, and how much faster each shape was.

    `tokens` are the numbers of tokens that matter: a shape is replaced where the speed-ups at them, multiplied, exceed
    1. All linears of one shape share the table that was measured for the first of them.
    """
    first = next(blocks[0].parameters())
    scratch = Scratch(first.device, first.dtype)
    tables: dict[tuple[int, int], ChoiceTable] = {}
    replaced = total = 0
    for number, block in enumerate(blocks):
        for name, linear in [entry for entry in block.named_modules() if isinstance(entry[1], nn.Linear)]:
            total += 1
            packed = _pack(linear.weight, pattern, f"block {number} {name}")
            if packed is None:
                continue
            shape = (linear.out_features, linear.in_features)
            if shape not in tables:
                tables[shape] = measure(packed, tokens=sorted(set(tokens)))
            if _gain(tables[shape], tokens) > 1:
                block.set_submodule(name, OpaqueSparseLinear(SparseLinear(packed, linear.bias, scratch, tables[shape])))
                replaced += 1
    shapes = [
        f"{rows} x {inputs} {_gain(table, tokens):.2f}x as fast as dense" for (rows, inputs), table in tables.items()
    ]
    return (f"{replaced} of {total} linears computed from packed sparse weights ({pattern})", *shapes)


@torch.no_grad()
def _pack(weight: Tensor, pattern: str, name: str) -> SparseWeight | None:
    if 1 - int(weight.count_nonzero()) / weight.numel() < _FEWEST_ZEROS:
        return None
    return two_four.pack(weight, name=name) if pattern == "2:4" else bitmask.pack(weight, name=name)


def _gain(table: ChoiceTable, tokens: Sequence[int]) -> float:
    """The geometric mean of the speed-ups at `tokens`; a number of tokens that was not measured counts as none."""
    gains = [table.speed_up(count) or 1.0 for count in set(tokens)]
    return math.exp(sum(map(math.log, gains)) / len(gains))
