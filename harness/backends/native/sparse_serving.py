"""Linears of a pruned model computed from packed sparse weights, where that was measured to be faster here."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.kernels.scratch import Scratch
from harness.kernels.sparse import gaps, two_four
from harness.kernels.sparse.choice import MEASURED_TOKENS, ChoiceTable, measure
from harness.kernels.sparse.dispatch import SparseLinear
from harness.kernels.sparse.launch import SparseWeight

_FEWEST_ZEROS = 0.3
"""The share below which the packed form is hardly smaller than the dense one."""


def use_sparse(
    blocks: Sequence[nn.Module], *, pattern: str, tokens: Sequence[int], prompt_tokens: int
) -> tuple[str, ...]:
    """Replace linears of `blocks` in place; returns notes that say how many, and how fast each shape is on which path.

    `tokens` are the numbers of tokens of a decoding step that matter: a shape is replaced where the speed-ups at them,
    multiplied, exceed 1. What is fastest for up to `prompt_tokens`, those of all prompts together, is measured as well,
    cuSPARSELt included, but does not decide. All linears of one shape share the first one's table.
    """
    scratch = Scratch()
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
                measured = _measured_tokens(tokens, prompt_tokens)
                tables[shape] = measure(packed, tokens=measured, cusparselt=pattern == "2:4")
            if _gain(tables[shape], tokens) > 1:
                block.set_submodule(name, SparseLinear(packed, linear.bias, scratch, tables[shape]))
                replaced += 1
    shapes = [
        note
        for (rows, inputs), table in tables.items()
        for note in (_speeds(rows, inputs, table), *(f"{rows} x {inputs}: {note}" for note in table.notes))
    ]
    return (f"{replaced} of {total} linears computed from packed sparse weights ({pattern})", *shapes)


@torch.no_grad()
def _pack(weight: Tensor, pattern: str, name: str) -> SparseWeight | None:
    if 1 - int(weight.count_nonzero()) / weight.numel() < _FEWEST_ZEROS:
        return None
    return two_four.pack(weight, name=name) if pattern == "2:4" else gaps.pack(weight, name=name)


def _measured_tokens(tokens: Sequence[int], prompt_tokens: int) -> list[int]:
    """Those of decoding steps, those of all prompts, and the usual numbers between."""
    between = (count for count in MEASURED_TOKENS if max(tokens) < count < prompt_tokens)
    return sorted({*tokens, *between, min(prompt_tokens, max(MEASURED_TOKENS))})


def _gain(table: ChoiceTable, tokens: Sequence[int]) -> float:
    """The geometric mean of the speed-ups at `tokens`; a number of tokens that was not measured counts as none."""
    gains = [table.speed_up(count) or 1.0 for count in set(tokens)]
    return math.exp(sum(map(math.log, gains)) / len(gains))


def _speeds(rows: int, inputs: int, table: ChoiceTable) -> str:
    measured = ((choice.tokens, choice.path, table.speed_up(choice.tokens)) for choice in table.choices)
    ways = [f"{gain:.2f}x at {tokens} ({path.value})" for tokens, path, gain in measured if gain is not None]
    return f"{rows} x {inputs} as fast as dense, by tokens at once: {', '.join(ways)}"
