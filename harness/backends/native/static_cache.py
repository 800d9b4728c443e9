"""Keys and values of a whole generation in tensors that stay where they are, so that a step can be captured."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.errors import BadRequest

_ALIGNMENT = 8
"""Positions: fused attention wants the mask's rows aligned to 16 bytes."""


@dataclass(frozen=True)
class LayerSize:
    """Key and value heads of one layer, and the sizes of a key and a value."""

    heads: int
    key_size: int
    value_size: int


class KeyValueRoom:
    """Memory for `tokens` positions in every layer, reserved once; each batch size takes its caches out of it."""

    def __init__(self, layers: tuple[LayerSize, ...], tokens: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.tokens = tokens
        self._layers = layers
        self._flat = [
            (
                torch.zeros(tokens * layer.heads * layer.key_size, dtype=dtype, device=device),
                torch.zeros(tokens * layer.heads * layer.value_size, dtype=dtype, device=device),
            )
            for layer in layers
        ]

    @property
    def held_bytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self._flat)

    def cache(self, batch_size: int, positions: int) -> "StaticCache":
        """A cache of at least `positions` for each of `batch_size` sequences. Two of them share their memory.

        Raises:
            BadRequest: the room is smaller.
        """
        positions = padded(positions)
        if batch_size * positions > self.tokens:
            raise BadRequest(
                f"{batch_size} sequences of {positions} positions do not fit into keys and values for {self.tokens}",
                hint="ask for more kv_tokens, a smaller batch or fewer tokens",
            )
        pairs = []
        for layer, (keys, values) in zip(self._layers, self._flat, strict=True):
            shape = (batch_size, layer.heads, positions)
            count = batch_size * layer.heads * positions
            pairs.append(
                (
                    keys[: count * layer.key_size].view(*shape, layer.key_size),
                    values[: count * layer.value_size].view(*shape, layer.value_size),
                )
            )
        return StaticCache(tuple(pairs), positions)


class StaticCache:
    """What transformers calls a cache, for a prompt written in one pass and one token at a time after it.

    While `filling`, keys and values are written from the first position on and attention reads what it was given, so a
    causal mask is enough. Later they are written at `position`, int64 [1] on the device, and attention reads all
    `positions`: the caller masks those that lie beyond it.
    """

    is_compileable = False
    is_sliding = (False,)

    def __init__(self, layers: tuple[tuple[Tensor, Tensor], ...], positions: int) -> None:
        self.positions = positions
        self.filling = True
        self.position = torch.zeros(1, dtype=torch.int64, device=layers[0][0].device)
        self._layers = layers

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """[batch, heads, new positions, size] each; returns what attention is to read."""
        held_keys, held_values = self._layers[layer_idx]
        if self.filling:
            held_keys[:, :, : keys.shape[2]].copy_(keys)
            held_values[:, :, : values.shape[2]].copy_(values)
            return keys, values
        held_keys.index_copy_(2, self.position, keys)
        held_values.index_copy_(2, self.position, values)
        return held_keys, held_values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Nothing lies before the prompt; later the caller gives positions and mask itself."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return query_length, 0


def padded(positions: int) -> int:
    """Positions as a cache has them: a multiple of eight."""
    return -(-positions // _ALIGNMENT) * _ALIGNMENT


@torch.inference_mode()
def layer_sizes(model: Any, device: torch.device) -> tuple[LayerSize, ...]:
    """The sizes of each layer, as a forward pass of one token makes them; layers of a pruned model differ."""
    cache = model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=device), use_cache=True).past_key_values
    return tuple(LayerSize(one.keys.shape[1], one.keys.shape[3], one.values.shape[3]) for one in cache.layers)
