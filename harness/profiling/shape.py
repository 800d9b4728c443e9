"""The dimensions of a decoder, read from config.json alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.contract import Reason
from harness.errors import BadCheckpoint, Unsupported


@dataclass(frozen=True)
class Shape:
    """A decoder whose layers are all alike.

    `mlp_matrices` is 3 for a gated feed-forward part (gate, up, down) and 2 for a plain one. `embedding_size` differs
    from `hidden_size` where the model projects its embeddings in and out (OPT-350m).
    """

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    context: int
    mlp_matrices: int
    embedding_size: int

    @property
    def attention_weights(self) -> int:
        """Weights of one layer's query, key, value and output matrices."""
        return 2 * self.hidden_size * self.head_size * (self.heads + self.key_value_heads)

    @property
    def mlp_weights(self) -> int:
        """Weights of one layer's feed-forward matrices."""
        return self.mlp_matrices * self.hidden_size * self.intermediate_size

    @property
    def decoder_weights(self) -> int:
        """Weights of all the decoder layers' linears: what the compression methods work on."""
        return self.layers * (self.attention_weights + self.mlp_weights)

    @property
    def head_weights(self) -> int:
        """Weights of the output embedding, tied or not."""
        return self.vocabulary * self.embedding_size

    @property
    def projection_weights(self) -> int:
        """Weights of the matrices between embedding and hidden size; 0 where the sizes are equal."""
        return 2 * self.embedding_size * self.hidden_size if self.embedding_size != self.hidden_size else 0

    def kv_cache_bytes(self, *, tokens: int, batch_size: int, value_bytes: int) -> int:
        """Keys and values of `tokens` positions in every layer, for a batch."""
        return 2 * self.layers * self.key_value_heads * self.head_size * tokens * batch_size * value_bytes


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The shape that a config.json describes.

    Raises:
        Unsupported: the model type is not among those known here.
        BadCheckpoint: the config lacks a dimension.
    """
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise Unsupported(
            Reason.ARCHITECTURE,
            f"the dimensions of model type {family!r} are not known",
            hint=f"known are: {', '.join(sorted(_FAMILIES))}",
        )
    try:
        return _FAMILIES[family](config)
    except KeyError as missing:
        raise BadCheckpoint(f"config.json lacks {missing}", hint="fetch the checkpoint again") from missing


def _llama(config: Mapping[str, Any]) -> Shape:
    heads = int(config["num_attention_heads"])
    hidden_size = int(config["hidden_size"])
    return Shape(
        layers=int(config["num_hidden_layers"]),
        hidden_size=hidden_size,
        intermediate_size=int(config["intermediate_size"]),
        heads=heads,
        key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_size=int(config.get("head_dim") or hidden_size // heads),
        vocabulary=int(config["vocab_size"]),
        context=int(config["max_position_embeddings"]),
        mlp_matrices=3,
        embedding_size=hidden_size,
    )


def _opt(config: Mapping[str, Any]) -> Shape:
    heads = int(config["num_attention_heads"])
    hidden_size = int(config["hidden_size"])
    return Shape(
        layers=int(config["num_hidden_layers"]),
        hidden_size=hidden_size,
        intermediate_size=int(config["ffn_dim"]),
        heads=heads,
        key_value_heads=heads,
        head_size=hidden_size // heads,
        vocabulary=int(config["vocab_size"]),
        context=int(config["max_position_embeddings"]),
        mlp_matrices=2,
        embedding_size=int(config.get("word_embed_proj_dim") or hidden_size),
    )


_FAMILIES: dict[str, Callable[[Mapping[str, Any]], Shape]] = {
    "llama": _llama,
    "mistral": _llama,
    "opt": _opt,
    "qwen2": _llama,
    "qwen3": _llama,
}
