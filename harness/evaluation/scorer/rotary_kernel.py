"""The rotary embedding of one tensor in one pass. Imported only where there is a GPU, or Triton's interpreter."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,import-not-found,import-untyped"
# ruff: noqa: ANN001, ANN202

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["length"])
def _rotate(
    states, cosines, sines, rotated,
    length, heads, row_stride, head_stride, token_stride, angle_row_stride,
    half: tl.constexpr, block_heads: tl.constexpr, block_half: tl.constexpr,
):  # fmt: skip
    """One token: of each head, the pair of elements `half` apart is turned by the angle of that pair."""
    row = (tl.program_id(0) // length).to(tl.int64)
    token = tl.program_id(0) % length
    head = tl.arange(0, block_heads)[:, None]
    column = tl.arange(0, block_half)[None, :]
    inside = (head < heads) & (column < half)
    source = states + row * row_stride + token * token_stride + head * head_stride + column
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    angle = row * angle_row_stride + token * (2 * half) + column
    known = column < half
    cosine_first = tl.load(cosines + angle, mask=known, other=0.0).to(tl.float32)
    cosine_second = tl.load(cosines + angle + half, mask=known, other=0.0).to(tl.float32)
    sine_first = tl.load(sines + angle, mask=known, other=0.0).to(tl.float32)
    sine_second = tl.load(sines + angle + half, mask=known, other=0.0).to(tl.float32)
    target = rotated + ((row * length + token) * heads + head) * (2 * half) + column
    kind = rotated.dtype.element_ty
    tl.store(target, (first * cosine_first - second * sine_first).to(kind), mask=inside)
    tl.store(target + half, (second * cosine_second + first * sine_second).to(kind), mask=inside)


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """[rows, heads, length, size] rotated; `cosines` and `sines` are [1 or rows, length, size], contiguous.

    `states` may be any view whose last dimension is contiguous; what returns lies as [rows, length, heads, size].

    Raises:
        ValueError: the angles are for fewer elements than a head has.
    """
    rows, heads, length, size = states.shape
    if cosines.shape[-1] != size:
        raise ValueError(f"angles for {cosines.shape[-1]} elements of heads of {size}")
    rotated = torch.empty((rows, length, heads, size), dtype=states.dtype, device=states.device)
    half = size // 2
    _rotate[(rows * length,)](
        states, cosines, sines, rotated,
        length, heads, states.stride(0), states.stride(1), states.stride(2), 0 if len(cosines) == 1 else length * size,
        half=half, block_heads=triton.next_power_of_2(heads), block_half=triton.next_power_of_2(half),
    )  # fmt: skip
    return rotated.transpose(1, 2)
