"""Temporary: kernels of kernel_variants.py, one token, rows 32 side by side."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,import-not-found,import-untyped"
# ruff: noqa

import triton, triton.language as tl

@triton.jit
def as_float(bits, dtype: tl.constexpr):
    return bits.to(tl.int16).to(dtype, bitcast=True).to(tl.float32)

@triton.jit
def four(words):
    """The last axis of [n, 4] apart."""
    a, b = tl.split(tl.reshape(words, (words.shape[0], 2, 2)))
    w0, w2 = tl.split(a)
    w1, w3 = tl.split(b)
    return w0, w1, w2, w3

@triton.jit
def plane(p, number: tl.constexpr, word, inside):
    return four(tl.load(p[:, None] + number * 128 + word[None, :], mask=inside[:, None], other=0, eviction_policy="evict_first"))

@triton.jit
def two(acc0, acc1, place, gaps, shift: tl.constexpr, pair, x, dtype: tl.constexpr):
    place += (gaps >> shift) & 15
    acc0 += as_float(pair, dtype) * tl.load(x + place).to(tl.float32)
    place += (gaps >> (shift + 4)) & 15
    acc1 += as_float(pair >> 16, dtype) * tl.load(x + place).to(tl.float32)
    return acc0, acc1, place

@triton.jit
def gap_kernel(stream, starts, ends, order, x, y, rows, dtype: tl.constexpr, warps: tl.constexpr):
    tile = tl.program_id(0)
    thread = tl.arange(0, 32 * warps)
    lane = thread % 32
    begin = tl.load(ends + tile)
    end = tl.load(ends + tile + 1)
    each = (end - begin + warps - 1) // warps
    first = begin + thread // 32 * each
    last = tl.minimum(first + each, end)
    place = tl.load(starts + first * 32 + lane, mask=first < last, other=0).to(tl.int32) & 0xFFFF
    word = tl.arange(0, 4)
    acc0 = tl.zeros((32 * warps,), dtype=tl.float32)
    acc1 = tl.zeros((32 * warps,), dtype=tl.float32)
    p = stream + first.to(tl.int64) * 640 + lane * 4
    for step in range(each):
        inside = first + step < last
        g0, g1, g2, g3 = plane(p, 0, word, inside)
        for part in tl.static_range(4):
            a, b, c, d = plane(p, part + 1, word, inside)
            if part == 0:
                g = g0
            elif part == 1:
                g = g1
            elif part == 2:
                g = g2
            else:
                g = g3
            acc0, acc1, place = two(acc0, acc1, place, g, 0, a, x, dtype)
            acc0, acc1, place = two(acc0, acc1, place, g, 8, b, x, dtype)
            acc0, acc1, place = two(acc0, acc1, place, g, 16, c, x, dtype)
            acc0, acc1, place = two(acc0, acc1, place, g, 24, d, x, dtype)
        p += 640
    total = tl.sum(tl.reshape(acc0 + acc1, (warps, 32)), axis=0)
    row = tl.load(order + tile * 32 + tl.arange(0, 32))
    tl.store(y + row, total.to(y.dtype.element_ty), mask=row < rows)

@triton.jit
def pick(acc0, acc1, places, shift: tl.constexpr, pair, x, dtype: tl.constexpr):
    acc0 += as_float(pair, dtype) * tl.load(x + ((places >> shift) & 3)).to(tl.float32)
    acc1 += as_float(pair >> 16, dtype) * tl.load(x + ((places >> (shift + 2)) & 3)).to(tl.float32)
    return acc0, acc1

@triton.jit
def pair_kernel(stream, x, y, rows, segments, dtype: tl.constexpr, warps: tl.constexpr):
    tile = tl.program_id(0)
    thread = tl.arange(0, 32 * warps)
    lane = thread % 32
    each = (segments + warps - 1) // warps
    first = thread // 32 * each
    last = tl.minimum(first + each, segments)
    word = tl.arange(0, 4)
    acc0 = tl.zeros((32 * warps,), dtype=tl.float32)
    acc1 = tl.zeros((32 * warps,), dtype=tl.float32)
    p = stream + (tile * segments + first).to(tl.int64) * 576
    for step in range(each):
        inside = first + step < last
        xs = x + tl.where(inside, (first + step) * 64, 0)
        both = tl.load(p[:, None] + lane[:, None] * 2 + tl.arange(0, 2)[None, :], mask=inside[:, None], other=0, eviction_policy="evict_first")
        m0, m1 = tl.split(both)
        for part in tl.static_range(4):
            a, b, c, d = plane(p + 64 + lane * 4, part, word, inside)
            m = m0 if part < 2 else m1
            at = xs + part * 16
            acc0, acc1 = pick(acc0, acc1, m, part % 2 * 16, a, at, dtype)
            acc0, acc1 = pick(acc0, acc1, m, part % 2 * 16 + 4, b, at + 4, dtype)
            acc0, acc1 = pick(acc0, acc1, m, part % 2 * 16 + 8, c, at + 8, dtype)
            acc0, acc1 = pick(acc0, acc1, m, part % 2 * 16 + 12, d, at + 12, dtype)
        p += 576
    total = tl.sum(tl.reshape(acc0 + acc1, (warps, 32)), axis=0)
    row = tile * 32 + tl.arange(0, 32)
    tl.store(y + row, total.to(y.dtype.element_ty), mask=row < rows)


@triton.jit
def raw(p, number: tl.constexpr, word, inside):
    return tl.load(p[:, None] + number * 128 + word[None, :], mask=inside[:, None], other=0, eviction_policy="evict_first")

@triton.jit
def gap_ahead_kernel(stream, starts, ends, order, x, y, rows, dtype: tl.constexpr, warps: tl.constexpr):
    tile = tl.program_id(0)
    thread = tl.arange(0, 32 * warps)
    lane = thread % 32
    begin = tl.load(ends + tile)
    end = tl.load(ends + tile + 1)
    each = (end - begin + warps - 1) // warps
    first = begin + thread // 32 * each
    last = tl.minimum(first + each, end)
    place = tl.load(starts + first * 32 + lane, mask=first < last, other=0).to(tl.int32) & 0xFFFF
    word = tl.arange(0, 4)
    acc0 = tl.zeros((32 * warps,), dtype=tl.float32)
    acc1 = tl.zeros((32 * warps,), dtype=tl.float32)
    p = stream + first.to(tl.int64) * 640 + lane * 4
    r0 = raw(p, 0, word, first < last)
    r1 = raw(p, 1, word, first < last)
    r2 = raw(p, 2, word, first < last)
    r3 = raw(p, 3, word, first < last)
    r4 = raw(p, 4, word, first < last)
    for step in range(each):
        g0, g1, g2, g3 = four(r0)
        c1, c2, c3, c4 = r1, r2, r3, r4
        p += 640
        inside = first + step + 1 < last
        r0 = raw(p, 0, word, inside)
        r1 = raw(p, 1, word, inside)
        r2 = raw(p, 2, word, inside)
        r3 = raw(p, 3, word, inside)
        r4 = raw(p, 4, word, inside)
        for part in tl.static_range(4):
            if part == 0:
                g = g0
                a, b, c, d = four(c1)
            elif part == 1:
                g = g1
                a, b, c, d = four(c2)
            elif part == 2:
                g = g2
                a, b, c, d = four(c3)
            else:
                g = g3
                a, b, c, d = four(c4)
            acc0, acc1, place = two(acc0, acc1, place, g, 0, a, x, dtype)
            acc0, acc1, place = two(acc0, acc1, place, g, 8, b, x, dtype)
            acc0, acc1, place = two(acc0, acc1, place, g, 16, c, x, dtype)
            acc0, acc1, place = two(acc0, acc1, place, g, 24, d, x, dtype)
    total = tl.sum(tl.reshape(acc0 + acc1, (warps, 32)), axis=0)
    row = tl.load(order + tile * 32 + tl.arange(0, 32))
    tl.store(y + row, total.to(y.dtype.element_ty), mask=row < rows)


@triton.jit
def pair_ahead_kernel(stream, x, y, rows, segments, dtype: tl.constexpr, warps: tl.constexpr):
    tile = tl.program_id(0)
    thread = tl.arange(0, 32 * warps)
    lane = thread % 32
    each = (segments + warps - 1) // warps
    first = thread // 32 * each
    last = tl.minimum(first + each, segments)
    word = tl.arange(0, 4)
    acc0 = tl.zeros((32 * warps,), dtype=tl.float32)
    acc1 = tl.zeros((32 * warps,), dtype=tl.float32)
    p = stream + (tile * segments + first).to(tl.int64) * 576
    half = lane[:, None] * 2 + tl.arange(0, 2)[None, :]
    q = p + 64 + lane * 4
    inside = first < last
    both = tl.load(p[:, None] + half, mask=inside[:, None], other=0, eviction_policy="evict_first")
    r0 = raw(q, 0, word, inside)
    r1 = raw(q, 1, word, inside)
    r2 = raw(q, 2, word, inside)
    r3 = raw(q, 3, word, inside)
    for step in range(each):
        xs = x + tl.where(first + step < last, (first + step) * 64, 0)
        m0, m1 = tl.split(both)
        c0, c1, c2, c3 = r0, r1, r2, r3
        p += 576
        q += 576
        inside = first + step + 1 < last
        both = tl.load(p[:, None] + half, mask=inside[:, None], other=0, eviction_policy="evict_first")
        r0 = raw(q, 0, word, inside)
        r1 = raw(q, 1, word, inside)
        r2 = raw(q, 2, word, inside)
        r3 = raw(q, 3, word, inside)
        for part in tl.static_range(4):
            if part == 0:
                a, b, c, d = four(c0)
            elif part == 1:
                a, b, c, d = four(c1)
            elif part == 2:
                a, b, c, d = four(c2)
            else:
                a, b, c, d = four(c3)
            m = m0 if part < 2 else m1
            at = xs + part * 16
            acc0, acc1 = pick(acc0, acc1, m, part % 2 * 16, a, at, dtype)
            acc0, acc1 = pick(acc0, acc1, m, part % 2 * 16 + 4, b, at + 4, dtype)
            acc0, acc1 = pick(acc0, acc1, m, part % 2 * 16 + 8, c, at + 8, dtype)
            acc0, acc1 = pick(acc0, acc1, m, part % 2 * 16 + 12, d, at + 12, dtype)
    total = tl.sum(tl.reshape(acc0 + acc1, (warps, 32)), axis=0)
    row = tile * 32 + tl.arange(0, 32)
    tl.store(y + row, total.to(y.dtype.element_ty), mask=row < rows)
