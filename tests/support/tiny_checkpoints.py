"""Tiny random models of every known family, a word tokenizer, and published artifacts of them."""

import gzip
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Glm4Config,
    Glm4ForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from harness.checkpoint import publish
from harness.contract import CheckpointDescriptor, CheckpointFormat, DatasetDescriptor, Dtype

VOCABULARY = 64
HIDDEN = 32
LAYERS = 3
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_GROUPED = _SHAPE | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
_OPT = _SHAPE | {"ffn_dim": 48}
_GEMMA3 = _GROUPED | {"head_dim": 16, "query_pre_attn_scalar": 16}
_MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]

FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, _GROUPED),
    "llama-tied": (LlamaForCausalLM, LlamaConfig, _GROUPED | {"tie_word_embeddings": True}),
    "mistral": (MistralForCausalLM, MistralConfig, _GROUPED | {"sliding_window": None}),
    "mistral-sliding": (MistralForCausalLM, MistralConfig, _GROUPED | {"sliding_window": 5}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, _GROUPED),
    "qwen2-mixed": (
        Qwen2ForCausalLM,
        Qwen2Config,
        _GROUPED | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, _GROUPED),
    "glm": (GlmForCausalLM, GlmConfig, _GROUPED),
    "glm4": (Glm4ForCausalLM, Glm4Config, _GROUPED),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, _GEMMA3 | {"sliding_window": 5, "layer_types": _MIXED_LAYERS}),
    "gemma3-full": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        _GEMMA3 | {"num_key_value_heads": 4, "layer_types": ["full_attention"] * LAYERS},
    ),
    "opt": (OPTForCausalLM, OPTConfig, _OPT | {"word_embed_proj_dim": HIDDEN}),
    "opt-post-norm": (OPTForCausalLM, OPTConfig, _OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
}

WIDE = {
    "llama-wide": (
        LlamaForCausalLM,
        LlamaConfig,
        _SHAPE | {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 4, "head_dim": 16},
    ),
}
"""Widths that other libraries can work with, and a key-value head for each query head."""


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A random model in float32, with activations that are not tiny and weights that bfloat16 holds exactly."""
    make, config, shape = (FAMILIES | WIDE)[family]
    torch.manual_seed(seed)
    model = make(config(**shape, attn_implementation="sdpa"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3 if "embed" in name else 0.15)
            parameter.copy_(parameter.bfloat16())
    return model.eval().requires_grad_(False)


def with_exact_norms(model: PreTrainedModel) -> PreTrainedModel:
    """Gemma's norms compute in float32 whatever the model does; here in the dtype of their input."""
    for norm in (module for module in model.modules() if type(module).__name__ == "Gemma3RMSNorm"):
        norm.forward = lambda x, norm=norm: norm._norm(x) * (1 + norm.weight)
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, for the words `w0`, `w1`, …; any other word is `<unk>`."""
    words = ["<s>", "</s>", "<unk>"] + [f"w{index}" for index in range(VOCABULARY - 3)]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_tokenizer() -> Qwen2Tokenizer:
    """What transformers makes of any tokenizer of a Qwen2 checkpoint, whatever its file says: byte pairs. No merges."""
    letters = ["<|endoftext|>", "Ġ", "w", *"0123456789"]
    return Qwen2Tokenizer(vocab={letter: index for index, letter in enumerate(letters)}, merges=[])


def tiny_text(words: int, seed: int) -> str:
    drawn = torch.randint(0, VOCABULARY - 3, (words,), generator=torch.Generator().manual_seed(seed))
    return " ".join(f"w{index}" for index in drawn.tolist())


def tiny_tokens(samples: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (samples, length), generator=torch.Generator().manual_seed(seed))


def publish_model(
    folder: Path, model: PreTrainedModel, dtype: Dtype = Dtype.BFLOAT16, shard_size: str = "5GB", **changes: object
) -> CheckpointDescriptor:
    """Save `model` in `dtype`, with its tokenizer, as the published checkpoint `folder`."""
    staging = folder.with_name(f"{folder.name}.staging")
    stored = type(model)(model.config)
    stored.load_state_dict(model.state_dict())
    stored.to(getattr(torch, dtype.value)).save_pretrained(staging, max_shard_size=shard_size)
    (byte_tokenizer() if isinstance(model, Qwen2ForCausalLM) else tiny_tokenizer()).save_pretrained(staging)
    facts: dict[str, object] = {
        "format": CheckpointFormat.DENSE,
        "dtype": dtype,
        "architecture": type(model).__name__,
        "parameter_count": sum(parameter.numel() for parameter in model.parameters()),
        "source": "made by a test",
    }
    return publish(staging, folder, lambda files: CheckpointDescriptor(files=files, **(facts | changes)))


def publish_rows(folder: Path, name: str, rows: list[dict[str, object]], split: str = "train") -> DatasetDescriptor:
    """Publish `rows` as one split of the data set `name`."""
    staging = folder.with_name(f"{folder.name}.staging")
    staging.mkdir(parents=True)
    with gzip.open(staging / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return publish(
        staging,
        folder,
        lambda files: DatasetDescriptor(files=files, name=name, origin="local", rows={split: len(rows)}),
    )
