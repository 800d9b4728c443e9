"""The dimensions of a decoder, read from config.json alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.architectures.pruned_shapes import LayerWidths, read_layer_widths
from harness.contract import Reason
from harness.errors import BadCheckpoint, Unsupported


@dataclass(frozen=True)
class Shape:
    """A decoder. `layer_widths` is empty where its layers are alike; the widths beside it are then those of each layer.

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
    layer_widths: tuple[LayerWidths, ...] = ()

    @property
    def all_heads(self) -> int:
        """Query heads of all the layers together."""
        return sum(one.heads for one in self.layer_widths) or self.layers * self.heads

    @property
    def all_key_value_heads(self) -> int:
        """Key and value heads of all the layers together."""
        return sum(one.key_value_heads for one in self.layer_widths) or self.layers * self.key_value_heads

    @property
    def all_channels(self) -> int:
        """Feed-forward channels of all the layers together."""
        return sum(one.intermediate_size for one in self.layer_widths) or self.layers * self.intermediate_size

    @property
    def decoder_weights(self) -> int:
        """Weights of all the decoder layers' linears: what the compression methods work on."""
        attention = 2 * self.head_size * (self.all_heads + self.all_key_value_heads)
        return self.hidden_size * (attention + self.mlp_matrices * self.all_channels)

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
        return 2 * self.all_key_value_heads * self.head_size * tokens * batch_size * value_bytes


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The shape that a config.json describes.

    Raises:
        Unsupported: the model type is not among those known here.
        BadCheckpoint: the config lacks a dimension, or it is no number.
    """
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise Unsupported(
            Reason.ARCHITECTURE,
            f"the dimensions of model type {family!r} are not known",
            hint=f"known are: {', '.join(sorted(_FAMILIES))}",
        )
    try:
        shape = _FAMILIES[family](config)
    except KeyError as missing:
        raise BadCheckpoint(f"config.json lacks {missing}", hint="fetch the checkpoint again") from missing
    except (TypeError, ValueError) as odd:
        raise BadCheckpoint(
            f"a dimension in config.json is no number: {odd}", hint="fetch the checkpoint again"
        ) from odd
    return replace(shape, layer_widths=read_layer_widths(config) or ())


def _llama(config: Mapping[str, Any]) -> Shape:
    heads = int(config["num_attention_heads"])
    hidden_size = int(config["hidden_size"])
    return Shape(
        layers=int(config["num_hidden_layers"]),
        hidden_size=hidden_size,
        intermediate_size=int(config["intermediate_size"]),
        heads=heads,
        key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_size=int(config.get("head_dim") or _usual_head_size(config["model_type"]) or hidden_size // heads),
        vocabulary=int(config["vocab_size"]),
        context=int(config["max_position_embeddings"]),
        mlp_matrices=3,
        embedding_size=hidden_size,
    )


def _usual_head_size(model_type: str) -> int | None:
    """What transformers takes where a configuration states none; None where that follows from the hidden size."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return getattr(CONFIG_MAPPING[model_type], "head_dim", None)


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
    "gemma3_text": _llama,
    "glm": _llama,
    "glm4": _llama,
    "llama": _llama,
    "mistral": _llama,
    "opt": _opt,
    "qwen2": _llama,
    "qwen3": _llama,
}
