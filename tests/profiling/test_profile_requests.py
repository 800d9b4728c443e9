"""A whole profile: sizes from files, cache size from the shape, density and bits from the descriptor."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.checkpoint import open_checkpoint
from harness.contract import Device, Dtype, ProfileParameters, ProfileRequest, ProfileResult, Quantization, Sparsity
from harness.errors import BadRequest
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


def test_a_pruned_checkpoint_counts_by_its_measured_density(tmp_path: Path) -> None:
    model = small_model("llama")
    dense = profile(tmp_path, publish_checkpoint(tmp_path / "dense", model))
    sparsity = Sparsity(pattern="unstructured", target=0.5, measured=0.25)
    pruned = profile(tmp_path, publish_checkpoint(tmp_path / "pruned", model, sparsity=sparsity))
    linears = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    )
    assert pruned.macs["macs/shape"] == dense.macs["macs/shape"]
    assert dense.macs["macs/density"] - pruned.macs["macs/density"] == 128 * linears // 4


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


def test_lengths_beyond_the_context_are_refused_before_loading(tmp_path: Path) -> None:
    checkpoint = publish_checkpoint(tmp_path / "model", small_model("llama"))
    with pytest.raises(BadRequest, match="120 prompt and 9 generated tokens exceed the model's context of 128"):
        profile(tmp_path, checkpoint, prompt_tokens=120, generate_tokens=9)
