"""Starting the kernels on tensors: grids, views and how a multiplication is cut into programs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.errors import BadRequest
from harness.kernels.sparse import gap_kernels, two_four_kernels
from harness.kernels.sparse.gaps import TILE_ROWS, GapWeight
from harness.kernels.sparse.two_four import SEGMENT_INPUTS, TwoFourWeight
from harness.kernels.tiles import BFLOAT16, FLOAT16, sum_parts

SparseWeight = TwoFourWeight | GapWeight

MIN_BLOCK_TOKENS = 16

_TWO_FOUR_TOKENS = 64
_DTYPES: dict[torch.dtype, Any] = {torch.float16: FLOAT16, torch.bfloat16: BFLOAT16}
_SUM_BLOCK = 1024
_PROGRAMS = 256
_EXPAND_SEGMENTS = 8
_EXPAND_BLOCK = 64


@dataclass(frozen=True)
class Launch:
    """How a multiplication is cut.

    One token: a program has 32 rows, whose inputs its warps share. More tokens: a program has `block_rows`, and the
    inputs are split between `splits` programs, which leave float32 parts that a second kernel adds.
    """

    warps: int
    block_rows: int = TILE_ROWS
    splits: int = 1


def most_tokens(weight: SparseWeight) -> int:
    """For how many tokens there is a kernel that reads the packed weight."""
    return _TWO_FOUR_TOKENS if isinstance(weight, TwoFourWeight) else 1


def candidates(weight: SparseWeight, tokens: int) -> tuple[Launch, ...]:
    """The launches worth measuring for a number of tokens; the first one is a sound guess without measuring."""
    if tokens == 1:
        return Launch(16), Launch(8), Launch(32), Launch(4)
    if isinstance(weight, GapWeight) or tokens > most_tokens(weight):
        return ()
    return _split(weight)


def multiply(weight: SparseWeight, x: Tensor, launch: Launch) -> Tensor:
    """[tokens, rows] = x [tokens, in_features] times the transposed weight, accumulated in float32, in x's dtype.

    Raises:
        BadRequest: x has another dtype or width than the weight, or more tokens than there is a kernel for.
    """
    _check(weight, x)
    if isinstance(weight, GapWeight):
        return _multiply_gaps(weight, x.contiguous(), launch)
    if missing := -weight.in_features % SEGMENT_INPUTS:
        x = torch.nn.functional.pad(x, (0, missing))
    return _multiply_two_four(weight, x.contiguous(), launch)


def expand(weight: SparseWeight, scratch: Tensor) -> Tensor:
    """The dense weight [rows, in_features], written into the front of `scratch`, a flat tensor of its dtype."""
    if isinstance(weight, GapWeight):
        return _expand_gaps(weight, scratch)
    tiles, segments, _ = weight.stream.shape
    dense = scratch[: dense_elements(weight)].view(weight.rows, segments * SEGMENT_INPUTS)
    kernels: Any = two_four_kernels
    grid = (tiles, segments)
    kernels.expand[grid](weight.stream, dense.view(torch.int64), weight.rows, segments, block_rows=TILE_ROWS)
    return dense[:, : weight.in_features]


def dense_elements(weight: SparseWeight) -> int:
    """How many elements `expand` needs of its scratch."""
    if isinstance(weight, GapWeight):
        return weight.rows * weight.in_features
    return weight.rows * weight.stream.shape[1] * SEGMENT_INPUTS


def _multiply_gaps(weight: GapWeight, x: Tensor, launch: Launch) -> Tensor:
    y = torch.empty(1, weight.rows, dtype=x.dtype, device=x.device)
    tensors = (weight.stream, weight.starts, weight.ends, weight.order)
    kernels: Any = gap_kernels
    kernels.multiply_one_token[(len(weight.order),)](
        *tensors, x, y, weight.rows, dtype=_DTYPES[x.dtype], warps=launch.warps, num_warps=launch.warps
    )
    return y


def _multiply_two_four(weight: TwoFourWeight, x: Tensor, launch: Launch) -> Tensor:
    tiles, segments, _ = weight.stream.shape
    tokens = x.shape[0]
    y = torch.empty(tokens, weight.rows, dtype=x.dtype, device=x.device)
    kernels: Any = two_four_kernels
    if tokens == 1:
        kernels.multiply_one_token[(tiles,)](
            weight.stream,
            x,
            y,
            weight.rows,
            segments,
            dtype=_DTYPES[x.dtype],
            warps=launch.warps,
            num_warps=launch.warps,
        )
        return y
    span, splits = _span(weight, launch.splits)
    parts = y if splits == 1 else torch.empty(splits, tokens, weight.rows, dtype=torch.float32, device=x.device)
    kernels.multiply_tokens[(-(-weight.rows // launch.block_rows), splits)](
        weight.stream,
        x,
        parts,
        weight.rows,
        segments,
        tokens,
        span,
        dtype=_DTYPES[x.dtype],
        block_rows=launch.block_rows,
        block_tokens=max(MIN_BLOCK_TOKENS, 1 << (tokens - 1).bit_length()),
        num_warps=launch.warps,
        num_stages=1,
    )
    if splits > 1:
        grid = (-(-y.numel() // _SUM_BLOCK),)
        sum_parts[grid](parts, y, y.numel(), splits=splits, block=_SUM_BLOCK)
    return y


def _expand_gaps(weight: GapWeight, scratch: Tensor) -> Tensor:
    dense = scratch[: dense_elements(weight)].view(weight.rows, weight.in_features)
    tensors = (weight.stream, weight.starts, weight.ends, weight.order)
    grid = (len(weight.order), max(1, -(-weight.longest // _EXPAND_SEGMENTS)))
    kernels: Any = gap_kernels
    sizes = (weight.rows, weight.in_features, _EXPAND_SEGMENTS)
    kernels.expand[grid](*tensors, dense.view(torch.int16), *sizes, block=_EXPAND_BLOCK)
    return dense


def _span(weight: TwoFourWeight, splits: int) -> tuple[int, int]:
    """Segments for each split, and how many splits that makes."""
    segments = weight.stream.shape[1]
    span = -(-segments // splits)
    return span, -(-segments // span)


def _split(weight: TwoFourWeight) -> tuple[Launch, ...]:
    """Launches with enough splits for some hundred programs, and with about twice as many."""
    found: dict[Launch, None] = {}
    for block_rows in (2 * TILE_ROWS, 4 * TILE_ROWS):
        for programs in (_PROGRAMS, 2 * _PROGRAMS):
            wanted = max(1, round(programs * block_rows / weight.rows))
            found[Launch(4, block_rows, _span(weight, wanted)[1])] = None
    return tuple(found)


def _check(weight: SparseWeight, x: Tensor) -> None:
    most = most_tokens(weight)
    if x.dtype is not weight.dtype or x.shape[1:] != (weight.in_features,) or not 1 <= x.shape[0] <= most:
        raise BadRequest(
            f"a sparse kernel was given {x.dtype} of shape {tuple(x.shape)} for a {weight.dtype} weight of"
            f" {weight.in_features} inputs",
            hint=f"give it 1 to {most} tokens in the weight's dtype",
        )
