"""What kernels write: a tile of the result, or one of several parts of it, and the sum of those."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,import-not-found,import-untyped"
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl

FLOAT16 = tl.float16
BFLOAT16 = tl.bfloat16


@triton.jit
def store_tile(y, acc, row, token, rows, tokens, part):
    """Write acc [rows, tokens] into the part's [tokens, rows]."""
    target = y + (part * tokens + token[None, :]).to(tl.int64) * rows + row[:, None]
    tl.store(target, acc.to(y.dtype.element_ty), mask=(row < rows)[:, None] & (token < tokens)[None, :])


@triton.jit
def sum_parts(parts, y, count, splits: tl.constexpr, block: tl.constexpr):
    """y[count] = the sum of `splits` float32 runs of `count` values."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < count
    total = tl.zeros((block,), dtype=tl.float32)
    for part in tl.static_range(splits):
        total += tl.load(parts + part * count + at, mask=inside, other=0.0)
    tl.store(y + at, total.to(y.dtype.element_ty), mask=inside)
