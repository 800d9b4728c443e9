"""What the kernels of both layouts share: 16-bit floats as integers, words of one load.

Kernels are written for the compiler and for Triton's interpreter alike: integers and selections, no inline assembly.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,import-not-found,import-untyped"
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl


@triton.jit
def as_float(bits, dtype: tl.constexpr):
    """The 16-bit float whose bits are the low half of an integer."""
    return bits.to(tl.int16).to(dtype, bitcast=True)


@triton.jit
def four_words(words):
    """The columns of int32 [n, 4]."""
    even, odd = tl.split(tl.reshape(words, (words.shape[0], 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth
