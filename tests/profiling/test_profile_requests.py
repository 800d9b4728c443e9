"""A whole profile: sizes from files, cache size from the shape, density from the tensors."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from harness.checkpoint import open_checkpoint
from harness.contract import Device, Dtype, ProfileParameters, ProfileRequest, ProfileResult, Quantization, Sparsity
from harness.errors import BadCheckpoint, BadRequest
from harness.profiling import run
from tests.support.small_checkpoints import Recorder, publish_checkpoint, small_model


def profile(tmp_path: Path, checkpoint: Path, **parameters: Any) -> ProfileResult:
    request = ProfileRequest(
        id="test",
        device=Device(threads=1),
        inputs={"checkpoint": str(checkpoint)},
        output=str(tmp_path),
        parameters=ProfileParameters(**{"prompt_tokens": 8, "generate_tokens": 4, **parameters}),
    )
    return run(request, Recorder().reporter)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_sizes_are_those_of_the_files_and_tensors(tmp_path: Path, family: str) -> None:
    model = small_model(family)
    checkpoint = publish_checkpoint(tmp_path / "model", model)
    result = profile(tmp_path, checkpoint)
    assert result.weight_bytes == 4 * sum(weight.numel() for weight in model.parameters())
    assert result.disk_bytes == open_checkpoint(checkpoint).size_bytes > result.weight_bytes
    assert result.parameter_count == model.num_parameters()


def test_the_cache_has_the_size_of_the_one_that_transformers_fills(tmp_path: Path) -> None:
    model = small_model("llama")
    result = profile(tmp_path, publish_checkpoint(tmp_path / "model", model), batch_size=3)
    cache = model(torch.zeros(3, 8 + 4, dtype=torch.int64), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert result.kv_cache_bytes == held


def linears_of(model: torch.nn.Module) -> list[torch.nn.Linear]:
    named = model.named_modules()
    return [module for name, module in named if isinstance(module, torch.nn.Linear) and ".layers." in name]


def test_a_pruned_checkpoint_counts_by_the_zeros_in_its_tensors(tmp_path: Path) -> None:
    model = small_model("llama")
    dense = profile(tmp_path, publish_checkpoint(tmp_path / "dense", model))
    for linear in linears_of(model):
        linear.weight[:, ::4] = 0
    sparsity = Sparsity(pattern="1:4", target=0.25, measured=0.25)
    pruned = profile(tmp_path, publish_checkpoint(tmp_path / "pruned", model, sparsity=sparsity))
    weights = sum(linear.weight.numel() for linear in linears_of(model))
    assert pruned.macs["macs/shape"] == dense.macs["macs/shape"]
    assert dense.macs["macs/density"] - pruned.macs["macs/density"] == 128 * weights // 4
    unclaimed = profile(tmp_path, publish_checkpoint(tmp_path / "unclaimed", model))
    assert unclaimed.macs == dense.macs, "zeros that no method claims save nothing"


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"sparsity": Sparsity(pattern="unstructured", target=0.5, measured=0.25)}, "sparsity.measured is 0.25"),
        ({"quantization": Quantization(weight_bits=2, activation_bits=16, simulated=True)}, "weight_bits is 2"),
    ],
)
def test_a_descriptor_that_its_tensors_contradict_is_not_profiled(
    tmp_path: Path, claims: dict[str, Any], words: str
) -> None:
    checkpoint = publish_checkpoint(tmp_path / "model", small_model("llama"), **claims)
    with pytest.raises(BadCheckpoint, match=words):
        profile(tmp_path, checkpoint)


def test_a_quantized_checkpoint_counts_by_its_weight_bits(tmp_path: Path) -> None:
    model = small_model("llama")
    quantization = Quantization(weight_bits=8, activation_bits=16, simulated=True)
    result = profile(tmp_path, publish_checkpoint(tmp_path / "model", model, quantization=quantization))
    head = 128 * 264 * 32
    assert result.macs["macs/paper-bitops"] - head == round((result.macs["macs/shape"] - head) / 4)


def test_memory_and_protocol_are_named(tmp_path: Path) -> None:
    result = profile(tmp_path, publish_checkpoint(tmp_path / "model", small_model("opt")), batch_size=2)
    assert result.protocol == "memory/8-4-b2"
    assert result.memory.method.startswith("peak-rss")
    assert result.memory.peak_memory_bytes > result.weight_bytes
    assert result.dtype is Dtype.FLOAT32
    assert result.macs_tokens == 128


SHAPE = {"vocab_size": 264, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
GROUPED = SHAPE | {"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128}
UNCOUNTED = {
    "gemma": transformers.GemmaConfig(**GROUPED, head_dim=16, pad_token_id=0),
    "gpt2": transformers.GPT2Config(vocab_size=264, n_embd=32, n_head=4, n_layer=2, n_positions=128),
    "mixtral": transformers.MixtralConfig(**GROUPED, num_local_experts=4),
    "phi": transformers.PhiConfig(**GROUPED),
    "lfm2": transformers.Lfm2Config(**GROUPED, layer_types=["conv", "full_attention"], pad_token_id=0),
}


@pytest.mark.parametrize("family", UNCOUNTED)
def test_a_family_whose_macs_are_not_known_has_its_sizes_and_its_memory(tmp_path: Path, family: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(UNCOUNTED[family])
    checkpoint = publish_checkpoint(tmp_path / "model", model)
    result = profile(tmp_path, checkpoint)
    assert (result.macs, result.memory_prediction) == ({}, None)
    assert result.macs_absent == f"the dimensions of model type {family!r} are not known"
    stored = {weight.data_ptr(): weight.nbytes for weight in model.parameters()}
    assert result.weight_bytes == sum(stored.values())
    assert result.disk_bytes == open_checkpoint(checkpoint).size_bytes
    assert result.memory.peak_memory_bytes > result.weight_bytes
    assert result.memory_parts is not None
    assert result.memory_parts.weight_bytes is not None
    assert result.kv_cache_bytes > 0


def test_a_cache_of_unknown_shape_is_measured(tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_config(UNCOUNTED["mixtral"])
    result = profile(tmp_path, publish_checkpoint(tmp_path / "model", model), batch_size=3)
    heads, head_size, positions = 2, 8, 8 + 4 - 1
    assert result.kv_cache_bytes == 2 * 2 * heads * head_size * positions * 3 * 4


@pytest.mark.parametrize(("window", "kept"), [(12, 12), (10, 9)])
def test_layers_with_a_window_hold_no_more_keys_than_it_reaches_back(tmp_path: Path, window: int, kept: int) -> None:
    kinds = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(
        **GROUPED, head_dim=16, pad_token_id=0, sliding_window=window, layer_types=kinds
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    result = profile(tmp_path, publish_checkpoint(tmp_path / "model", model), batch_size=3)
    positions = 8 + 4 if window >= 8 + 4 else 8 + 4 - 1
    assert result.kv_cache_bytes == 2 * 2 * 16 * 3 * 4 * (kept + positions)


def test_lengths_beyond_the_context_are_refused_before_loading(tmp_path: Path) -> None:
    checkpoint = publish_checkpoint(tmp_path / "model", small_model("llama"))
    with pytest.raises(BadRequest, match="120 prompt and 9 generated tokens exceed the model's context of 128"):
        profile(tmp_path, checkpoint, prompt_tokens=120, generate_tokens=9)
