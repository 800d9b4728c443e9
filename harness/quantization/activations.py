"""Quantized activations in simulation: rounded to their codes as they occur, computed with as floating-point.

Each token has a scale (and zero point) of its own, from the values that it has at that place (dynamic quantization).
The rules are those of the SmoothQuant and OmniQuant authors' code. Engines round at the same places, but in places by
other rules: compressed-tensors' own simulation takes 2 · absmax / (2**bits - 1) for the symmetric scale.
"""

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.architectures.blocks import Block
from harness.contract import AttentionRounding, Quantization

_NOT_QUANTIZED_BITS = 16


class Handle(Protocol):
    """Something that `attach` put in place; `remove` takes it away again."""

    def remove(self) -> None: ...


def fake_quantize_tokens(x: Tensor, bits: int, symmetric: bool) -> Tensor:
    """Round the values of each token, [..., features], to `bits` bits; computed in float32, returned in x's dtype.

    Symmetric: scale = absmax / (2**(bits-1) - 1), codes from -2**(bits-1) (SmoothQuant, section 3). Asymmetric: scale =
    (max - min) / (2**bits - 1), the zero point rounded, 0 not necessarily among the values (OmniQuant, its code). A
    token whose values need no scale (all 0; all equal) is returned as it is. Gradients pass the rounding unchanged.
    """
    values = x.to(torch.float32)
    if symmetric:
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        scale = values.abs().amax(-1, keepdim=True) / high
    else:
        low, high = 0, 2**bits - 1
        smallest, largest = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
        scale = (largest - smallest) / high
    scaleless = scale == 0
    scale = scale.masked_fill(scaleless, 1)
    zero = torch.zeros_like(scale) if symmetric else -_round(smallest / scale)
    codes = (_round(values / scale) + zero).clamp(low, high)
    return torch.where(scaleless, values, (codes - zero) * scale).to(x.dtype)


def attach(blocks: Sequence[Block], quantization: Quantization) -> tuple[Handle, ...]:
    """Quantize the inputs of every linear of `blocks` from now on and, with `attention_bits`, those of attention.

    By heads, these are the queries and keys after the rotary embedding, and the values, each per token and head: a
    token-wise quantized key-value cache has the same codes. By projections, they are the outputs of the linears, biases
    included, each per token. The softmax stays as it is. The blocks' modules keep their code: the attention function is
    exchanged through the configuration that each attention module looks it up by.

    Returns:
        What to remove to have the blocks as they were; empty where nothing is quantized.
    """
    handles: list[Handle] = []
    if quantization.activation_bits < _NOT_QUANTIZED_BITS:
        hook = _InputQuantizer(quantization.activation_bits, quantization.activations_symmetric)
        handles += [linear.module.register_forward_pre_hook(hook) for block in blocks for linear in block.linears]
    if quantization.attention_bits is None:
        return tuple(handles)
    if quantization.attention_rounding is AttentionRounding.PROJECTIONS:
        projected = _OutputQuantizer(quantization.attention_bits, quantization.activations_symmetric)
        groups = (block.groups[0] for block in blocks)
        handles += [linear.module.register_forward_hook(projected) for group in groups for linear in group.linears]
    else:
        name = _register_attention(quantization.attention_bits, quantization.activations_symmetric)
        handles += [_ExchangedAttention(block.attention, name) for block in blocks]
    return tuple(handles)


class _InputQuantizer:
    """A forward pre-hook."""

    def __init__(self, bits: int, symmetric: bool) -> None:
        self._bits = bits
        self._symmetric = symmetric

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (fake_quantize_tokens(arguments[0], self._bits, self._symmetric), *arguments[1:])


class _OutputQuantizer:
    """A forward hook."""

    def __init__(self, bits: int, symmetric: bool) -> None:
        self._bits = bits
        self._symmetric = symmetric

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        return fake_quantize_tokens(output, self._bits, self._symmetric)


class _ExchangedAttention:
    """Gives one attention module a copy of the configuration that names another attention function."""

    def __init__(self, module: Any, name: str) -> None:
        self._module = module
        self._before = module.config
        module.config = copy.copy(module.config)
        module.config._attn_implementation = name

    def remove(self) -> None:
        self._module.config = self._before


def _register_attention(bits: int, symmetric: bool) -> str:
    """Make scaled dot-product attention of quantized inputs known to transformers; returns the name it has there."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def quantized_sdpa(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **keywords: Any
    ) -> tuple[Tensor, None]:
        query, key, value = (fake_quantize_tokens(part, bits, symmetric) for part in (query, key, value))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **keywords)

    name = f"sdpa_quantized_{bits}_{'symmetric' if symmetric else 'asymmetric'}"
    ALL_ATTENTION_FUNCTIONS.register(name, quantized_sdpa)
    return name


def _round(values: Tensor) -> Tensor:
    """To the nearest integer; where a gradient is wanted, one that passes through unchanged."""
    rounded = values.round()
    return values + (rounded - values).detach() if values.requires_grad else rounded
