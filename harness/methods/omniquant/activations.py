"""Quantized activations while a block is trained: the rounding of `harness.quantization.activations`, with gradients.

The gradient passes the rounding unchanged, and not where a value was clamped; the scale's gradient goes to the values
that span the token's range. It is written out by hand, and linears that read one tensor share its rounding, since
quantizing seven inputs through elementwise operations would cost as much as the block itself.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from harness.architectures.blocks import Block
from harness.contract import Quantization
from harness.quantization.activations import attach, fake_quantize_tokens

_NOT_QUANTIZED_BITS = 16
_HALF_A_STEP = 0.5 + 1e-4


class RoundedTokens(torch.autograd.Function):
    """(x [..., features], bits, symmetric) -> `fake_quantize_tokens` of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int, symmetric: bool) -> Tensor:
        values = x.to(torch.float32)
        rounded = fake_quantize_tokens(values, bits, symmetric)
        if symmetric:
            at_high = at_low = values.abs().argmax(-1, keepdim=True)
            extent = values.gather(-1, at_high)
            step = extent.abs() / ((1 << bits - 1) - 1)
        else:
            high, at_high = values.max(-1, keepdim=True)
            low, at_low = values.min(-1, keepdim=True)
            extent = high - low
            step = extent / ((1 << bits) - 1)
        moved = rounded - values
        inside = moved.abs() <= _HALF_A_STEP * step
        of_extent = torch.where(inside, moved, rounded) / extent.masked_fill(extent == 0, 1)
        ctx.symmetric = symmetric
        ctx.save_for_backward(of_extent.to(x.dtype), inside, at_high, at_low)
        return rounded.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        of_extent, inside, at_high, at_low = ctx.saved_tensors
        of_range = (gradient * of_extent).sum(-1, keepdim=True, dtype=torch.float32).to(gradient.dtype)
        result = gradient * inside
        result.scatter_add_(-1, at_high, of_range)
        if not ctx.symmetric:
            result.scatter_add_(-1, at_low, -of_range)
        return result, None, None


class _SharedRounding:
    """A forward pre-hook for all linears of a block: those that read the same tensor get the same rounded one."""

    def __init__(self, quantization: Quantization) -> None:
        self._bits = quantization.activation_bits
        self._symmetric = quantization.activations_symmetric
        self._read: Tensor | None = None
        self._rounded: Tensor | None = None

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if arguments[0] is not self._read:
            self._read = arguments[0]
            self._rounded = RoundedTokens.apply(self._read, self._bits, self._symmetric)  # type: ignore[no-untyped-call]
        return (self._rounded, *arguments[1:])


@contextmanager
def quantized_activations(block: Block, quantization: Quantization) -> Iterator[None]:
    """Quantize, inside, what the block's linears read and, with `attention_bits`, its queries, keys and values."""
    with ExitStack() as attached:
        if quantization.activation_bits < _NOT_QUANTIZED_BITS:
            hook = _SharedRounding(quantization)
            for linear in block.linears:
                attached.callback(linear.module.register_forward_pre_hook(hook).remove)
        for handle in attach([block], quantization.model_copy(update={"activation_bits": _NOT_QUANTIZED_BITS})):
            attached.callback(handle.remove)
        yield
