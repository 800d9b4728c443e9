"""Starting the kernels on tensors: grids, and how a multiplication is cut into programs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.errors import BadRequest
from harness.kernels.integer import kernels
from harness.kernels.integer.weights import PackedCodes
from harness.kernels.tiles import BFLOAT16, FLOAT16, sum_parts

MAX_TOKENS = 64
MIN_BLOCK_TOKENS = 16
_DTYPES: dict[torch.dtype, Any] = {torch.float16: FLOAT16, torch.bfloat16: BFLOAT16}
_LARGEST_STEP = 128
_SUM_BLOCK = 1024
_PROGRAMS = (264, 528)
"""Two and four a processor of an H100, between which a measurement chooses."""


@dataclass(frozen=True)
class Launch:
    """Rows a program and warps. For one token words a step; for more how many programs share a row block's inputs."""

    block_rows: int
    warps: int
    words: int = 0
    splits: int = 1

    def __str__(self) -> str:
        inputs = f"{self.words} words a step" if self.words else f"{self.splits} splits"
        return f"{self.block_rows} rows, {self.warps} warps, {inputs}"


def candidates(weight: PackedCodes, tokens: int) -> tuple[Launch, ...]:
    """The launches worth measuring for a number of tokens; the first one is a sound guess without measuring."""
    if tokens == 1:
        cuts = ((16, 4, 128), (8, 4, 128), (32, 8, 128), (4, 4, 128), (16, 4, 64), (8, 8, 256), (4, 8, 256))
        return tuple(Launch(block_rows, warps, words=words) for block_rows, warps, words in cuts)
    found: dict[Launch, None] = {}
    for block_rows, warps in ((64, 4), (32, 4), (128, 8)):
        for programs in _PROGRAMS:
            wanted = max(1, round(programs / -(-weight.rows // block_rows)))
            found[Launch(block_rows, warps, splits=_span(weight, wanted)[1])] = None
    return tuple(found)


def multiply(weight: PackedCodes, x: Tensor, launch: Launch) -> Tensor:
    """[tokens, rows] = x [tokens, in_features] times the transposed weight, accumulated in float32, in x's dtype.

    Raises:
        BadRequest: x has another width than the weight, no 16 bits, or more than 64 tokens.
    """
    tokens = x.shape[0]
    if x.dtype not in _DTYPES or x.shape[1:] != (weight.in_features,) or not 1 <= tokens <= MAX_TOKENS:
        raise BadRequest(
            f"the kernel was given {x.dtype} of shape {tuple(x.shape)} for {weight.in_features} inputs",
            hint=f"give it 1 to {MAX_TOKENS} tokens of 16-bit floats",
        )
    y = torch.empty(tokens, weight.rows, dtype=x.dtype, device=x.device)
    if launch.words:
        _multiply_one(weight, x.contiguous(), y, launch)
    else:
        _multiply_several(weight, x.contiguous(), y, launch)
    return y


def _multiply_one(weight: PackedCodes, x: Tensor, y: Tensor, launch: Launch) -> None:
    words_a_row, groups = weight.words.shape[1], weight.scale.shape[1]
    start: Any = kernels.multiply_one_token
    start[(-(-weight.rows // launch.block_rows),)](
        *_tensors(weight),
        x,
        y,
        weight.rows,
        words_a_row,
        groups,
        words_a_row // groups,
        bits=weight.bits,
        symmetric=weight.zero is None,
        block_rows=launch.block_rows,
        block_words=launch.words,
        num_warps=launch.warps,
    )


def _multiply_several(weight: PackedCodes, x: Tensor, y: Tensor, launch: Launch) -> None:
    tokens = x.shape[0]
    span, splits = _span(weight, launch.splits)
    parts = y if splits == 1 else torch.empty(splits, tokens, weight.rows, dtype=torch.float32, device=x.device)
    start: Any = kernels.multiply_tokens
    start[(-(-weight.rows // launch.block_rows), splits)](
        *_tensors(weight),
        x,
        parts,
        *_sizes(weight),
        tokens,
        span,
        dtype=_DTYPES[x.dtype],
        bits=weight.bits,
        symmetric=weight.zero is None,
        block_rows=launch.block_rows,
        step=_step(weight),
        block_tokens=max(MIN_BLOCK_TOKENS, 1 << (tokens - 1).bit_length()),
        num_warps=launch.warps,
        num_stages=4,
    )
    if splits > 1:
        grid = (-(-y.numel() // _SUM_BLOCK),)
        add: Any = sum_parts
        add[grid](parts, y, y.numel(), splits=splits, block=_SUM_BLOCK)


def expand(weight: PackedCodes, scratch: Tensor) -> Tensor:
    """The dense weight [rows, in_features], written into the front of `scratch`, a flat tensor of its dtype."""
    dense = scratch[: weight.rows * weight.in_features].view(weight.rows, weight.in_features)
    write: Any = kernels.expand
    step, block_rows = _step(weight), 16
    write[(-(-weight.rows // block_rows), -(-weight.in_features // step))](
        *_tensors(weight),
        dense,
        *_sizes(weight),
        bits=weight.bits,
        symmetric=weight.zero is None,
        block_rows=block_rows,
        step=step,
    )
    return dense


def _tensors(weight: PackedCodes) -> tuple[Tensor, ...]:
    return weight.words, weight.scale, weight.scale if weight.zero is None else weight.zero


def _sizes(weight: PackedCodes) -> tuple[int, ...]:
    return weight.rows, weight.in_features, weight.words.shape[1], weight.scale.shape[1], weight.group_size


def _step(weight: PackedCodes) -> int:
    """Inputs a step: the largest power of two that a group is made of, so that a step has one scale."""
    return min(_LARGEST_STEP, weight.group_size & -weight.group_size)


def _span(weight: PackedCodes, splits: int) -> tuple[int, int]:
    """Inputs for each split, in whole steps, and how many splits that makes."""
    step = _step(weight)
    steps = -(-weight.in_features // step)
    span = step * -(-steps // splits)
    return span, -(-weight.in_features // span)
