"""Kernels for packed codes: one token, up to 64 at once, and back to dense.

For one token a word's codes are multiplied as they are, and what the zeros take away is taken away once a word. For
more, a tile's codes, less their zeros, are small integers that a 16-bit float holds exactly; they go through tensor
cores, and the group's scale multiplies the float32 sums. Written for the compiler and for Triton's interpreter alike.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,import-not-found,import-untyped"
# ruff: noqa: ANN001, ANN201, ANN202

import triton
import triton.language as tl

from harness.kernels.tiles import store_tile


@triton.jit
def _codes(words, row, start, rows, words_a_row, bits: tl.constexpr, block_rows: tl.constexpr, step: tl.constexpr):
    """Codes int32 [block_rows, step] of the inputs from `start` on."""
    a_word: tl.constexpr = 32 // bits
    word = start // a_word + tl.arange(0, step // a_word)
    at = row.to(tl.int64)[:, None] * words_a_row + word[None, :]
    packed = tl.load(words + at, mask=(row < rows)[:, None] & (word < words_a_row)[None, :], other=0)
    shifts = tl.arange(0, a_word) * bits
    return tl.reshape((packed[:, :, None] >> shifts[None, None, :]) & (2**bits - 1), (block_rows, step))


@triton.jit
def _group(scale, zero, row, group, rows, groups, bits: tl.constexpr, symmetric: tl.constexpr):
    """Scale as float32 and zero as int32, [rows] each, of one group."""
    inside = row < rows
    at = row.to(tl.int64) * groups + group
    found = tl.load(scale + at, mask=inside, other=0.0).to(tl.float32)
    if symmetric:
        return found, tl.full((row.shape[0],), 2 ** (bits - 1), tl.int32)
    return found, tl.load(zero + at, mask=inside, other=0).to(tl.int32)


@triton.jit
def multiply_one_token(
    words,
    scale,
    zero,
    x,
    y,
    rows,
    words_a_row,
    groups,
    words_a_group,
    bits: tl.constexpr,
    symmetric: tl.constexpr,
    block_rows: tl.constexpr,
    block_words: tl.constexpr,
):
    """y[rows] = W x, accumulated in float32."""
    a_word: tl.constexpr = 32 // bits
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    row_inside = (row < rows)[:, None]
    word_row, group_row = words + row.to(tl.int64)[:, None] * words_a_row, row.to(tl.int64)[:, None] * groups
    acc = tl.zeros((block_rows, block_words), dtype=tl.float32)
    for start in range(0, words_a_row, block_words):
        word = start + tl.arange(0, block_words)
        word_inside = word < words_a_row
        inside = row_inside & word_inside[None, :]
        packed = tl.load(word_row + word[None, :], mask=inside, other=0)
        group = group_row + (word // words_a_group)[None, :]
        found = tl.load(scale + group, mask=inside, other=0.0).to(tl.float32)
        part = tl.zeros((block_rows, block_words), dtype=tl.float32)
        total = tl.zeros((block_words,), dtype=tl.float32)
        for place in tl.static_range(a_word):
            read = tl.load(x + word * a_word + place, mask=word_inside, other=0.0).to(tl.float32)
            part += ((packed >> (bits * place)) & (2**bits - 1)).to(tl.float32) * read[None, :]
            total += read
        if symmetric:
            acc += found * (part - 2 ** (bits - 1) * total[None, :])
        else:
            middle = tl.load(zero + group, mask=inside, other=0).to(tl.float32)
            acc += found * (part - middle * total[None, :])
    tl.store(y + row, tl.sum(acc, axis=1).to(y.dtype.element_ty), mask=row < rows)


@triton.jit(do_not_specialize=["tokens"])
def multiply_tokens(
    words,
    scale,
    zero,
    x,
    y,
    rows,
    inputs,
    words_a_row,
    groups,
    group_size,
    tokens,
    span,
    dtype: tl.constexpr,
    bits: tl.constexpr,
    symmetric: tl.constexpr,
    block_rows: tl.constexpr,
    step: tl.constexpr,
    block_tokens: tl.constexpr,
):
    """Part p of y[parts, tokens, rows]: inputs p·span to (p + 1)·span of W times x[tokens, inputs]."""
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    token = tl.arange(0, block_tokens)
    lane = tl.arange(0, step)
    acc = tl.zeros((block_rows, block_tokens), dtype=tl.float32)
    begin = tl.program_id(1) * span
    for start in range(begin, tl.minimum(begin + span, inputs), step):
        codes = _codes(words, row, start, rows, words_a_row, bits, block_rows, step)
        found, middle = _group(scale, zero, row, start // group_size, rows, groups, bits, symmetric)
        tile = (codes - middle[:, None]).to(dtype)
        column = (start + lane)[:, None]
        read = tl.load(
            x + token[None, :] * inputs + column, mask=(token < tokens)[None, :] & (column < inputs), other=0.0
        )
        acc += found[:, None] * tl.dot(tile, read)
    store_tile(y, acc, row, token, rows, tokens, tl.program_id(1))


@triton.jit
def expand(
    words,
    scale,
    zero,
    dense,
    rows,
    inputs,
    words_a_row,
    groups,
    group_size,
    bits: tl.constexpr,
    symmetric: tl.constexpr,
    block_rows: tl.constexpr,
    step: tl.constexpr,
):
    """The dense weight [rows, inputs]."""
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    start = tl.program_id(1) * step
    codes = _codes(words, row, start, rows, words_a_row, bits, block_rows, step)
    found, middle = _group(scale, zero, row, start // group_size, rows, groups, bits, symmetric)
    values = (codes - middle[:, None]).to(tl.float32) * found[:, None]
    column = start + tl.arange(0, step)
    target = dense + row.to(tl.int64)[:, None] * inputs + column[None, :]
    inside = (row < rows)[:, None] & (column < inputs)[None, :]
    tl.store(target, values.to(dense.dtype.element_ty), mask=inside)
