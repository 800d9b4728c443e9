"""AWQ's search for the range of each group of weights (authors' code, `auto_clip`): narrower, where that errs less.

The error of a group is the mean, over sampled tokens, of the square of its share of the output error: with d the error
of its weights and X its inputs, ‖Xd‖² / tokens = dᵀ(XᵀX)d / tokens. Whichever of the two forms is cheaper is computed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from harness.methods.numerics.rounding import RoundingGrid, fake_quantize

_CHUNK_WEIGHTS = {"cpu": 2**18, "cuda": 2**25}
"""Weights that are tried together: bounds what is held beside them."""


def search_clipping(weight: Tensor, samples: Tensor, grid: RoundingGrid, *, shrinks: list[float]) -> Tensor:
    """The largest magnitude that each weight should keep: [rows, groups, 1] in the dtype of `grid.groups`.

    weight: [rows, in_features]. samples: inputs, [tokens, in_features]. `shrinks` are the candidates, as shares taken
    off a group's largest magnitude; the first of equally good ones is taken.
    """
    squared_error = _squared_error(grid.groups(samples).transpose(0, 1))
    rows = max(1, _CHUNK_WEIGHTS[weight.device.type] // weight.shape[1])
    return torch.cat(
        [_search_rows(grid.groups(part), squared_error, grid, shrinks) for part in torch.split(weight, rows)]
    )


def clip(weight: Tensor, limits: Tensor, grid: RoundingGrid) -> Tensor:
    """[rows, in_features] with each group's weights within `limits`."""
    return grid.groups(weight).clamp(-limits, limits).reshape(weight.shape)


def _squared_error(inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """From inputs [groups, tokens, size]: a function from weight errors [rows, groups, size] to [rows, groups]."""
    _, tokens, size = inputs.shape
    if size <= tokens:
        gram = inputs.transpose(1, 2) @ inputs / tokens
        return lambda error: ((error.transpose(0, 1) @ gram) * error.transpose(0, 1)).sum(-1).T
    columns = inputs.transpose(1, 2)
    return lambda error: (error.transpose(0, 1) @ columns).square_().mean(-1).T


def _search_rows(
    grouped: Tensor, squared_error: Callable[[Tensor], Tensor], grid: RoundingGrid, shrinks: list[float]
) -> Tensor:
    largest = torch.maximum(grouped.amax(-1, keepdim=True), -grouped.amin(-1, keepdim=True))
    best = largest
    least = torch.full_like(largest, torch.inf)
    for shrink in shrinks:
        limits = largest * (1 - shrink)
        rounded = fake_quantize(grouped.clamp(-limits, limits), grid)
        error = squared_error(rounded.sub_(grouped)).unsqueeze(-1)
        best = torch.where(error < least, limits, best)
        least = torch.minimum(error, least)
    return best
