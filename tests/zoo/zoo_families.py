"""The shapes of the zoo: one small model of each kind of decoder that the methods have to handle."""

from dataclasses import dataclass
from typing import Any

CONTEXT_TOKENS = 512
VOCABULARY = 1024
END_TOKEN, PAD_TOKEN = "<|endoftext|>", "<|pad|>"
END_ID, PAD_ID = 0, 1


@dataclass(frozen=True)
class ZooModel:
    """`model_type` and `shape` make a transformers config. `learning_rate` is the peak of the schedule."""

    model_type: str
    shape: dict[str, Any]
    learning_rate: float = 3e-3


_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT_TOKENS,
    "bos_token_id": END_ID,
    "eos_token_id": END_ID,
    "pad_token_id": PAD_ID,
    "tie_word_embeddings": False,
}
_GATED = _COMMON | {"intermediate_size": 384, "head_dim": 32, "num_key_value_heads": 2}
_LLAMA3 = _GATED | {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
_OPT = _COMMON | {"ffn_dim": 512, "tie_word_embeddings": True, "dropout": 0.0}

ZOO = {
    "llama-mha": ZooModel("llama", _GATED | {"num_key_value_heads": 4}),
    "llama-gqa": ZooModel("llama", _LLAMA3),
    "llama-gqa-small": ZooModel("llama", _LLAMA3 | {"intermediate_size": 256, "num_hidden_layers": 2}),
    "mistral": ZooModel("mistral", _GATED | {"sliding_window": 128}),
    "qwen2": ZooModel("qwen2", _GATED | {"tie_word_embeddings": True}),
    "qwen3": ZooModel("qwen3", _GATED | {"tie_word_embeddings": True}),
    "opt": ZooModel("opt", _OPT | {"word_embed_proj_dim": 128}, learning_rate=2e-3),
    "opt-post-norm": ZooModel(
        "opt", _OPT | {"word_embed_proj_dim": 64, "do_layer_norm_before": False, "init_std": 0.08}, learning_rate=1e-3
    ),
    "glm": ZooModel(
        "glm",
        _GATED | {"attention_bias": True, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    ),
}
