"""Attention of many rows that share a trunk, without a copy of it for each: over the trunk, and over the own tokens.

A softmax over two sets of keys is the average of the softmaxes over each, weighted by the sums of their exponentials
(Juravsky et al., "Hydragen", 2024, section 3.1). Over the trunk no key is hidden, so all rows' queries are one
sequence to it and the kernel without a mask is taken.

cuDNN's kernels are left out, also for rows without a trunk (`KERNELS`): they are the fastest, but prepare a plan for
each new shape, 0.03 to 0.1 s on an H100 where a batch is computed in 0.4 s, and nearly every batch has its own shape.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend
from transformers import AttentionInterface

NAME = "llmcbench_trunk"
"""Of this attention, where transformers looks for a model's."""

KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
_LARGEST_HEAD = 256
_HEAD_MULTIPLE = 8
_HALF = (torch.float16, torch.bfloat16)

KeysAndValues = tuple[Tensor, Tensor]
"""Of one layer, each [1, key heads, trunk, head size]."""


def fits_kernels(head_size: int) -> bool:
    """Whether the kernels take heads of this size."""
    return head_size <= _LARGEST_HEAD and head_size % _HEAD_MULTIPLE == 0


def attend_after_trunk(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    *,
    trunk: Sequence[KeysAndValues],
    **_: Any,
) -> tuple[Tensor, None]:
    """[rows, queries, heads, head size], as transformers wants it, from `query` [rows, heads, queries, head size].

    `key` and `value` [rows, key heads, queries, head size] are the rows' own, hidden where `attention_mask`
    [rows, 1, queries, queries] is minus infinity; `trunk` has every layer's. A token sees at least itself.
    """
    rows, heads, queries, size = query.shape
    own, own_sum = attend(query, _repeat(key, heads), _repeat(value, heads), attention_mask, scaling)
    trunk_key, trunk_value = trunk[module.layer_idx]
    flat = query.transpose(1, 2).reshape(1, rows * queries, heads, size).transpose(1, 2)
    common, common_sum = attend(flat, _repeat(trunk_key, heads), _repeat(trunk_value, heads), None, scaling)
    common = common.transpose(1, 2).reshape(rows, queries, heads, size)
    common_sum = common_sum.view(heads, rows, queries).permute(1, 2, 0)
    share = torch.sigmoid(own_sum.transpose(1, 2) - common_sum).to(own.dtype)
    return torch.lerp(common, own.transpose(1, 2), share[..., None]), None


AttentionInterface.register(NAME, attend_after_trunk)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> tuple[Tensor, Tensor]:
    """Attention [rows, heads, queries, size] and the logarithm of each query's sum of exponentials, float32."""
    aten = torch.ops.aten
    if query.device.type == "cpu":
        found = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, False, attn_mask=mask, scale=scaling
        )
        return found[0], found[1]
    if mask is None and query.dtype in _HALF:
        found = aten._scaled_dot_product_flash_attention(query, key, value, scale=scaling)
    else:
        bias = None if mask is None else mask.expand(-1, query.shape[1], -1, -1)
        found = aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, scale=scaling)
    return found[0], found[1][..., : query.shape[2]]


def _repeat(states: Tensor, heads: int) -> Tensor:
    """[rows, heads, tokens, size] from [rows, key heads, tokens, size]: each stands for a group of query heads."""
    return states.repeat_interleave(heads // states.shape[1], dim=1) if heads != states.shape[1] else states
