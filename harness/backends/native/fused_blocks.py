"""Linears that read the same tensor joined into one: queries, keys and values; gate and up. Exact, by concatenation.

Covered: blocks with rotary attention and a gated feed-forward part, whose linears are plain. Not covered, and left as
they are: OPT, and linears that simulate quantized activations.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from harness.architectures.blocks import Block, decoder_blocks

_ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj")
_MLP_LINEARS = ("gate_proj", "up_proj")


class JoinedLinear(nn.Linear):
    """One linear with the rows of several; `joined_from` names those, in order, as they stood beside each other."""

    def __init__(self, in_features: int, out_features: int, joined_from: tuple[str, ...]) -> None:
        super().__init__(in_features, out_features, bias=False, device="meta")
        self.joined_from = joined_from


class FusedAttention(nn.Module):
    """Stands for a block's attention, with one product for queries, keys and values.

    Without a mask the positions given are a whole prompt. With one, each sequence has one position, and the query heads
    that share a key head take the place of positions: keys and values are not repeated for them.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        linears = [getattr(attention, name) for name in _ATTENTION_LINEARS]
        self._rows = [linear.out_features for linear in linears]
        self._head_size = int(attention.head_dim)
        self._scaling = float(attention.scaling)
        self._layer = int(attention.layer_idx)
        self._rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
        self.qkv_proj = _joined(linears, _ATTENTION_LINEARS)
        self.o_proj = attention.o_proj
        self.q_norm = getattr(attention, "q_norm", nn.Identity())
        self.k_norm = getattr(attention, "k_norm", nn.Identity())

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        batch, positions, _hidden = hidden_states.shape
        parts = self.qkv_proj(hidden_states).split(self._rows, dim=-1)
        queries, keys, values = (part.view(batch, positions, -1, self._head_size) for part in parts)
        queries, keys = self.q_norm(queries).transpose(1, 2), self.k_norm(keys).transpose(1, 2)
        queries, keys = self._rotate(queries, keys, *position_embeddings)
        values = values.transpose(1, 2)
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, self._layer)
        if attention_mask is None:
            mixed = scaled_dot_product_attention(
                queries,
                keys,
                values,
                is_causal=positions > 1,
                scale=self._scaling,
                enable_gqa=queries.shape[1] != keys.shape[1],
            )
        else:
            grouped = queries.reshape(batch, keys.shape[1], -1, self._head_size)
            mixed = scaled_dot_product_attention(grouped, keys, values, attn_mask=attention_mask, scale=self._scaling)
            mixed = mixed.reshape(batch, -1, 1, self._head_size)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, positions, -1)), None


class FusedMlp(nn.Module):
    """Stands for a gated feed-forward part, with one product for gate and up."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_up_proj = _joined([getattr(mlp, name) for name in _MLP_LINEARS], _MLP_LINEARS)
        self.down_proj = mlp.down_proj
        self.act_fn = mlp.act_fn

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        output: Tensor = self.down_proj(self.act_fn(gate) * up)
        return output


def fuse(model: nn.Module) -> int:
    """Join what can be joined in each decoder block, one after the other; returns how many blocks were changed.

    At most one block lies in memory twice: a description of a block holds its linears, so each is let go with its turn.

    Raises:
        Unsupported: see `harness.architectures.blocks.decoder_blocks`.
    """
    waiting = list(reversed(decoder_blocks(model)))
    changed = 0
    while waiting:
        changed += _fuse_block(waiting.pop())
    return changed


def _fuse_block(block: Block) -> bool:
    attention, mlp = block.attention, getattr(block.module, "mlp", None)
    implementation = getattr(getattr(attention, "config", None), "_attn_implementation", None)
    fusable = block.family.gated and implementation == "sdpa" and _plain(attention, _ATTENTION_LINEARS)
    if fusable:
        block.module.self_attn = FusedAttention(attention)
        _drop(attention, _ATTENTION_LINEARS)
    if mlp is not None and _plain(mlp, _MLP_LINEARS):
        block.module.mlp = FusedMlp(mlp)
        _drop(mlp, _MLP_LINEARS)
    return fusable


def _plain(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether all the linears are there, compute nothing but their product, and have or lack biases alike."""
    linears = [getattr(module, name, None) for name in names]
    return (
        all(
            type(linear) is nn.Linear and not linear._forward_pre_hooks and not linear._forward_hooks
            for linear in linears
        )
        and len({linear.bias is None for linear in linears if linear is not None}) == 1
    )


@torch.no_grad()
def _joined(linears: list[nn.Linear], names: tuple[str, ...]) -> nn.Linear:
    weight = torch.cat([linear.weight for linear in linears])
    joined = JoinedLinear(weight.shape[1], weight.shape[0], names)
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if linears[0].bias is not None:
        joined.bias = nn.Parameter(torch.cat([linear.bias for linear in linears]), requires_grad=False)
    return joined


def _drop(module: nn.Module, names: tuple[str, ...]) -> None:
    """Free what was joined before the next block's is."""
    for name in names:
        delattr(module, name)
