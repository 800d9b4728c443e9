"""Kernels for the gap layout: one token, and back to dense.

A thread has a row, a warp some segments of 32 rows. Weights are read in the order in which they lie. The rows of a tile
are about as long as each other, so the 32 inputs that a warp picks activations from lie close together all the way.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,import-not-found,import-untyped"
# ruff: noqa: ANN001, ANN201, ANN202

import triton
import triton.language as tl

from harness.kernels.sparse import gaps as layout
from harness.kernels.sparse.kernels import as_float, four_words

# The layout of `gaps.GapWeight`, counted in 32-bit words: eight gaps of four bits to a word, two values to a word.
_ROWS = tl.constexpr(layout.TILE_ROWS)
_ENTRIES = tl.constexpr(layout.SEGMENT)
_RUN = tl.constexpr(layout.PLANE_WORDS)
_PLANE = tl.constexpr(layout.TILE_ROWS * layout.PLANE_WORDS)
_SEGMENT = tl.constexpr(layout.PLANES * layout.TILE_ROWS * layout.PLANE_WORDS)
_GAP = tl.constexpr(layout.LARGEST_GAP)
_UNSIGNED = tl.constexpr(0xFFFF)


@triton.jit
def _load_plane(base, lane, plane: tl.constexpr, inside):
    at = base[:, None] + plane * _PLANE + lane[:, None] * _RUN + tl.arange(0, _RUN)
    return tl.load(at, mask=inside[:, None], other=0, eviction_policy="evict_first")


@triton.jit
def _load_segment(base, lane, inside):
    """Each thread's gaps and its four runs of eight values, int32 [threads, 4] five times."""
    return (
        _load_plane(base, lane, 0, inside),
        _load_plane(base, lane, 1, inside),
        _load_plane(base, lane, 2, inside),
        _load_plane(base, lane, 3, inside),
        _load_plane(base, lane, 4, inside),
    )


@triton.jit
def _add_two(acc, column, gaps, shift: tl.constexpr, pair, x, dtype: tl.constexpr):
    """acc plus the products of two entries, whose gaps begin at bit `shift`; and the last one's input."""
    column += (gaps >> shift) & _GAP
    acc += as_float(pair, dtype).to(tl.float32) * tl.load(x + column).to(tl.float32)
    column += (gaps >> (shift + 4)) & _GAP
    acc += as_float(pair >> 16, dtype).to(tl.float32) * tl.load(x + column).to(tl.float32)
    return acc, column


@triton.jit
def _add_eight(acc, column, gaps, values, x, dtype: tl.constexpr):
    a, b, c, d = four_words(values)
    acc, column = _add_two(acc, column, gaps, 0, a, x, dtype)
    acc, column = _add_two(acc, column, gaps, 8, b, x, dtype)
    acc, column = _add_two(acc, column, gaps, 16, c, x, dtype)
    return _add_two(acc, column, gaps, 24, d, x, dtype)


@triton.jit
def multiply_one_token(stream, starts, ends, order, x, y, rows, dtype: tl.constexpr, warps: tl.constexpr):
    """y[rows] = W x, accumulated in float32. A program has a tile, each of its warps some segments in a row.

    A segment is loaded while the one before it is multiplied.
    """
    tile = tl.program_id(0)
    lane = tl.arange(0, _ROWS * warps) % _ROWS
    begin, end = tl.load(ends + tile), tl.load(ends + tile + 1)
    each = (end - begin + warps - 1) // warps
    first = begin + tl.arange(0, _ROWS * warps) // _ROWS * each
    last = tl.minimum(first + each, end)
    column = tl.load(starts + first * _ROWS + lane, mask=first < last, other=0).to(tl.int32) & _UNSIGNED
    base = stream + first.to(tl.int64) * _SEGMENT
    acc = tl.zeros((_ROWS * warps,), dtype=tl.float32)
    next_gaps, next_0, next_1, next_2, next_3 = _load_segment(base, lane, first < last)
    for step in range(each):
        gaps, values_0, values_1, values_2, values_3 = next_gaps, next_0, next_1, next_2, next_3
        base += _SEGMENT
        next_gaps, next_0, next_1, next_2, next_3 = _load_segment(base, lane, first + step + 1 < last)
        gaps_0, gaps_1, gaps_2, gaps_3 = four_words(gaps)
        acc, column = _add_eight(acc, column, gaps_0, values_0, x, dtype)
        acc, column = _add_eight(acc, column, gaps_1, values_1, x, dtype)
        acc, column = _add_eight(acc, column, gaps_2, values_2, x, dtype)
        acc, column = _add_eight(acc, column, gaps_3, values_3, x, dtype)
    total = tl.sum(tl.reshape(acc, (warps, _ROWS)), axis=0)
    row = tl.load(order + tile * _ROWS + tl.arange(0, _ROWS))
    tl.store(y + row, total.to(y.dtype.element_ty), mask=row < rows)


@triton.jit
def _bound(starts, segment, lane, end, in_features):
    """The first input of each row that belongs to `segment` or a later one; all are before a row's end."""
    start = tl.load(starts + segment * _ROWS + lane, mask=segment < end, other=0).to(tl.int32) & _UNSIGNED
    return tl.where(start == 0, in_features, start + 1)


@triton.jit
def expand(stream, starts, ends, order, dense, rows, in_features, span, block: tl.constexpr):
    """Write the inputs of a tile's segments p·span to (p + 1)·span into `dense`, int16 [rows, in_features].

    Tensors are [inputs or entries, rows], so that the threads of a warp write neighbouring inputs of one row. Zeros are
    written first, by the same program: then values find them in the cache.
    """
    tile, part = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, _ROWS)[None, :]
    entry = tl.arange(0, _ENTRIES)[:, None]
    row = tl.load(order + tile * _ROWS + lane)
    inside = row < rows
    target = dense + row.to(tl.int64) * in_features
    tile_end = tl.load(ends + tile + 1)
    begin = tl.load(ends + tile) + part * span
    end = tl.minimum(begin + span, tile_end)
    low = tl.where(part == 0, 0, _bound(starts, begin, lane, tile_end, in_features))
    high = _bound(starts, end, lane, tile_end, in_features)
    longest = tl.max(tl.where(inside, high - low, 0))
    for offset in range(0, longest, block):
        column = low + offset + tl.arange(0, block)[:, None]
        zero = tl.zeros((block, _ROWS), dtype=tl.int16)
        tl.store(target + column, zero, mask=inside & (column < high))
    tl.debug_barrier()
    base = stream + begin.to(tl.int64) * _SEGMENT
    for segment in range(begin, end):
        gap = (tl.load(base + entry // 8 + lane * _RUN) >> (entry % 8 * 4)) & _GAP
        column = (tl.load(starts + segment * _ROWS + lane).to(tl.int32) & _UNSIGNED) + tl.cumsum(gap, axis=0)
        pair = tl.load(base + _PLANE + entry // 8 * _PLANE + lane * _RUN + entry % 8 // 2)
        value = (pair >> (entry % 2 * 16)).to(tl.int16)
        tl.store(target + column, value, mask=inside & (value != 0))
        base += _SEGMENT
