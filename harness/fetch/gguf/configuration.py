"""The configuration that transformers needs for the model of a GGUF file."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.contract import Dtype, Reason
from harness.contract.gguf import GgufModel, GgufVocabulary
from harness.errors import Unsupported
from harness.fetch.gguf.tensors import read_tensor

if TYPE_CHECKING:
    from torch import Tensor

_LLAMA3_FACTORS = (8.0, 32.0)
"""Those of the rotary scaling `llama3` in the models that were published with it; the rest of it is the same in all."""
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_GEMMA3_27B_BLOCKS = 62
"""llama.cpp tells by this number that attention is scaled by the hidden size of a head, not by its own size."""


def write_configuration(model: GgufModel, vocabulary: GgufVocabulary, folder: Path, dtype: Dtype) -> None:
    """Write `config.json` and `generation_config.json`.

    Raises:
        Unsupported: the rotary embedding is scaled in a way that is not known here.
    """
    from transformers import AutoConfig, GenerationConfig

    config: Any = AutoConfig.for_model(
        model.family.model_type,
        architectures=[model.family.architecture],
        dtype=dtype.value,
        vocab_size=model.vocabulary_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.blocks,
        num_attention_heads=model.heads,
        num_key_value_heads=model.key_heads,
        head_dim=model.head_size,
        max_position_embeddings=model.context_tokens,
        rms_norm_eps=model.norm_epsilon,
        tie_word_embeddings=model.tied,
        bos_token_id=vocabulary.begin_id,
        eos_token_id=vocabulary.end_id,
        pad_token_id=vocabulary.padding_id,
        rope_parameters=_rotary(model),
        **(_windowed(model) if model.family.windowed else {}),
    )
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)


def _rotary(model: GgufModel) -> dict[str, Any]:
    """`rope_parameters` as transformers 5 has them: by type of attention where there are two."""
    rotary: dict[str, Any] = {"rope_type": "default", "rope_theta": model.rotary_base}
    if model.rotary_scaling != 1.0:
        rotary |= {"rope_type": "linear", "factor": model.rotary_scaling}
    if model.rotary_factors is not None:
        rotary |= _llama3(model, read_tensor(model.rotary_factors))
    if not model.family.windowed:
        return rotary
    near = {"rope_type": "default", "rope_theta": model.window_rotary_base}
    return {"full_attention": rotary, "sliding_attention": near}


def _windowed(model: GgufModel) -> dict[str, Any]:
    per_head = model.hidden_size // model.heads
    return {
        "sliding_window": model.sliding_window,
        "query_pre_attn_scalar": per_head if model.blocks == _GEMMA3_27B_BLOCKS else model.head_size,
    }


def _llama3(model: GgufModel, factors: "Tensor") -> dict[str, Any]:
    """The parameters of the scaling `llama3` that give these factors, float32 [half a head].

    Raises:
        Unsupported: none of the published ones does.
    """
    import torch

    half = model.head_size // 2
    wavelengths = 2 * math.pi * model.rotary_base ** (torch.arange(half, dtype=torch.float64) / half)
    original = _LLAMA3["original_max_position_embeddings"]
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    for factor in _LLAMA3_FACTORS:
        smooth = ((original / wavelengths - low) / (high - low)).clamp(0, 1)
        expected = 1 / ((1 - smooth) / factor + smooth)
        if factors.shape == expected.shape and torch.allclose(factors.double(), expected, rtol=1e-4):
            return {"rope_type": "llama3", "factor": factor, **_LLAMA3}
    raise Unsupported(
        Reason.ARCHITECTURE,
        "the GGUF file's rope_freqs.weight is that of no rotary scaling that is known here",
        hint="give the model as safetensors (`hub:` or `dir:`)",
    )
