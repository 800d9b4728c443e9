"""Kernels for the 2:4 layout: one token, some tokens, and back to dense.

For one token a thread has a row, a warp some segments of 32 rows: weights are read in the order in which they lie, and
the activations that the 32 threads of a warp pick are four neighbours. For more tokens the tile is expanded in
registers and goes through tensor cores.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,import-not-found,import-untyped"
# ruff: noqa: ANN001, ANN201, ANN202

import triton
import triton.language as tl

from harness.kernels.sparse.kernels import as_float, four_words
from harness.kernels.tiles import store_tile

# A segment of `two_four.TwoFourWeight` has 576 words for 32 rows of 64 inputs: 64 of places, two a row; then four
# planes of 128, in each four groups' pairs of values a row.


@triton.jit
def _add_group(acc, places, shift: tl.constexpr, pair, x, dtype: tl.constexpr):
    """acc plus one group's two products; its places begin at bit `shift`, its activations at x."""
    first = tl.load(x + ((places >> shift) & 3)).to(tl.float32)
    second = tl.load(x + ((places >> (shift + 2)) & 3)).to(tl.float32)
    acc += as_float(pair, dtype).to(tl.float32) * first
    return acc + as_float(pair >> 16, dtype).to(tl.float32) * second


@triton.jit
def multiply_one_token(stream, x, y, rows, segments, dtype: tl.constexpr, warps: tl.constexpr):
    """y[rows] = W x, accumulated in float32. A program has a tile, each of its warps some segments in a row."""
    tile = tl.program_id(0)
    lane = tl.arange(0, 32 * warps) % 32
    each = (segments + warps - 1) // warps
    first = tl.arange(0, 32 * warps) // 32 * each
    last = tl.minimum(first + each, segments)
    two, four = tl.arange(0, 2), tl.arange(0, 4)
    base = stream + (tile * segments + first).to(tl.int64) * 576
    acc = tl.zeros((32 * warps,), dtype=tl.float32)
    for step in range(each):
        inside = first + step < last
        mask = inside[:, None]
        words = tl.load(base[:, None] + lane[:, None] * 2 + two, mask=mask, other=0, eviction_policy="evict_first")
        low, high = tl.split(words)
        inputs = x + tl.where(inside, first + step, 0) * 64
        for plane in tl.static_range(4):
            values = base[:, None] + 64 + plane * 128 + lane[:, None] * 4 + four
            a, b, c, d = four_words(tl.load(values, mask=mask, other=0, eviction_policy="evict_first"))
            places = low if plane < 2 else high
            at = inputs + plane * 16
            acc = _add_group(acc, places, plane % 2 * 16, a, at, dtype)
            acc = _add_group(acc, places, plane % 2 * 16 + 4, b, at + 4, dtype)
            acc = _add_group(acc, places, plane % 2 * 16 + 8, c, at + 8, dtype)
            acc = _add_group(acc, places, plane % 2 * 16 + 12, d, at + 12, dtype)
        base += 576
    total = tl.sum(tl.reshape(acc, (warps, 32)), axis=0)
    row = tile * 32 + tl.arange(0, 32)
    tl.store(y + row, total.to(y.dtype.element_ty), mask=row < rows)


@triton.jit
def _groups(stream, row, segment, segments, inside):
    """A segment's groups as they are in the dense weight, four 16-bit values each: int64 [rows, 16]."""
    group = tl.arange(0, 16)[None, :]
    base = stream + (row // 32 * segments + segment).to(tl.int64)[:, None] * 576
    lane = (row % 32)[:, None]
    pair = tl.load(base + 64 + group // 4 * 128 + lane * 4 + group % 4, mask=inside, other=0)
    places = tl.load(base + lane * 2 + group // 8, mask=inside, other=0) >> (group % 8 * 4)
    first = (pair & 0xFFFF).to(tl.int64) << ((places << 4) & 48)
    return first | (((pair >> 16) & 0xFFFF).to(tl.int64) << ((places << 2) & 48))


@triton.jit(do_not_specialize=["tokens"])
def multiply_tokens(
    stream,
    x,
    y,
    rows,
    segments,
    tokens,
    span,
    dtype: tl.constexpr,
    block_rows: tl.constexpr,
    block_tokens: tl.constexpr,
):
    """Part p of y[parts, tokens, rows]: segments p·span to (p + 1)·span of W times x[tokens, 64 · segments]."""
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    inside = row[:, None] < (rows + 31) // 32 * 32
    token = tl.arange(0, block_tokens)
    column = tl.arange(0, 64)
    acc = tl.zeros((block_rows, block_tokens), dtype=tl.float32)
    begin = tl.program_id(1) * span
    end = tl.minimum(begin + span, segments)
    groups = _groups(stream, row, begin, segments, inside)
    for segment in range(begin, end):
        ahead = _groups(stream, row, tl.minimum(segment + 1, end - 1), segments, inside)
        even, odd = tl.join(groups, groups >> 32), tl.join(groups >> 16, groups >> 48)
        tile = tl.reshape(as_float(tl.join(even, odd), dtype), (block_rows, 64))
        at = token[None, :].to(tl.int64) * (segments * 64) + (segment * 64 + column)[:, None]
        inputs = tl.load(x + at, mask=token[None, :] < tokens, other=0.0)
        acc = tl.dot(tile, inputs, acc)
        groups = ahead
    store_tile(y, acc, row, token, rows, tokens, tl.program_id(1))


@triton.jit
def expand(stream, dense, rows, segments, block_rows: tl.constexpr):
    """The dense weight, as an int64 view [rows, 16 · segments]: four 16-bit values a group."""
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    segment = tl.program_id(1)
    inside = (row < rows)[:, None]
    groups = _groups(stream, row, segment, segments, inside)
    target = dense + (row.to(tl.int64) * segments + segment)[:, None] * 16 + tl.arange(0, 16)[None, :]
    tl.store(target, groups, mask=inside)
