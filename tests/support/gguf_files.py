"""Tiny GGUF files, written with the package `gguf` from random models of transformers."""

from pathlib import Path
from typing import Any

import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, RopeScalingType, get_tensor_name_map, quantize
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from harness.backends.llama_cpp.gguf_file import neighbouring
from tests.support.gguf_headers import SCORED, SPELT, add_scored, add_spelt, finish

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "qwen2": {"model_type": "qwen2", "num_hidden_layers": 2, "head_dim": 8, "vocab_size": len(SPELT)},
    "qwen3": {"model_type": "qwen3", "num_hidden_layers": 2},
    "gemma3": {"model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 4, "query_pre_attn_scalar": 16},
}


def random_model(family: str, **changes: Any) -> PreTrainedModel:
    """In float32; norms and biases are none that a mistake would leave as they are."""
    shape = {"vocab_size": len(SCORED)} | _SHAPE | FAMILIES[family] | changes
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter += 0.3 * torch.randn_like(parameter)
            if "embed_tokens" in name:
                parameter *= 20
    return model.eval()


def write_model(path: Path, family: str, model: PreTrainedModel, quantized: str = "F32", **fields: Any) -> Path:
    """Write the model with its matrices as `quantized`. `fields` are those of `add_scored`.

    A Qwen2 has the vocabulary SPELT, since transformers makes a byte-level tokenizer of any, and all others SCORED.
    """
    config = model.config
    writer = GGUFWriter(path, family)
    _add_sizes(writer, config)
    add_spelt(writer, "qwen2") if family == "qwen2" else add_scored(writer, **fields)
    names = get_tensor_name_map(MODEL_ARCH[family.upper()], config.num_hidden_layers)
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        values = _as_stored(family, name, parameter, config).float().numpy()
        kind = GGMLQuantizationType[quantized if values.ndim > 1 else "F32"]
        writer.add_tensor(stored, quantize(values, kind) if kind else values, raw_dtype=kind)
    finish(writer)
    return path


def _add_sizes(writer: GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rotary = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rotary["rope_theta"])
    if rotary["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rotary["factor"])
    if rotary["rope_type"] == "llama3":
        plain, scaled = (ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))[0] for kind in ("linear", "llama3"))
        writer.add_tensor("rope_freqs.weight", (plain * rotary["factor"] / scaled).numpy())
    if getattr(config, "layer_types", None) and "sliding_attention" in config.layer_types:
        writer.add_sliding_window(config.sliding_window)


def _as_stored(family: str, name: str, values: torch.Tensor, config: Any) -> torch.Tensor:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if family == "llama" and heads:
        return neighbouring(values, heads)
    return values + 1 if family == "gemma3" and "norm" in name else values
