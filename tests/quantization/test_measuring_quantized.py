"""What profile and benchmark say of a quantized checkpoint: stored sizes, and that they computed with dense weights."""

import pytest
from safetensors.torch import load_file

from harness.backends import run as benchmark
from harness.checkpoint import open_checkpoint
from harness.contract import (
    BenchmarkParameters,
    BenchmarkRequest,
    Device,
    ProfileParameters,
    ProfileRequest,
    Quantization,
)
from harness.profiling import run as profile
from tests.support.quantized_weights import CASES, publish_quantized
from tests.support.small_checkpoints import Recorder
from tests.support.tiny_checkpoints import publish_model, tiny_model

DEVICE = Device(threads=1)


def profile_of(checkpoint, output):
    request = ProfileRequest(
        id="test",
        device=DEVICE,
        inputs={"checkpoint": str(checkpoint)},
        output=str(output),
        parameters=ProfileParameters(prompt_tokens=8, generate_tokens=4),
    )
    return profile(request, Recorder().reporter)


def benchmark_of(checkpoint, output):
    request = BenchmarkRequest(
        id="test",
        device=DEVICE,
        inputs={"checkpoint": str(checkpoint)},
        output=str(output),
        parameters=BenchmarkParameters(
            backend="transformers", prompt_tokens=8, generate_tokens=4, batch_sizes=(1,), warmup=1, repeats=1
        ),
    )
    return benchmark(request, Recorder().reporter)


@pytest.mark.parametrize("stored", CASES, ids=str)
def test_the_size_is_that_of_the_packed_tensors_and_the_parameters_those_of_the_model(tmp_path, stored):
    model = publish_quantized(tmp_path / "model", "llama", stored)
    publish_model(tmp_path / "dense", tiny_model("llama"))
    result, dense = profile_of(tmp_path / "model", tmp_path), profile_of(tmp_path / "dense", tmp_path)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert result.weight_bytes == sum(tensor.nbytes for tensor in tensors.values()) < dense.weight_bytes
    assert result.disk_bytes == open_checkpoint(tmp_path / "model").size_bytes > result.weight_bytes
    assert result.parameter_count == dense.parameter_count == model.num_parameters()
    head = 128 * model.lm_head.weight.numel()
    squared = (stored.quantization.weight_bits / 16) ** 2
    assert result.macs["macs/paper-bitops"] - head == round((dense.macs["macs/paper-bitops"] - head) * squared)
    (note,) = result.notes
    assert "dequantized to float32 on load" in note
    assert "not of the packed one" in note


def test_a_dense_profile_has_a_note_only_where_activations_are_simulated(tmp_path):
    model = tiny_model("llama")
    publish_model(tmp_path / "dense", model)
    assert profile_of(tmp_path / "dense", tmp_path).notes == ()
    publish_model(tmp_path / "w8a8", model, quantization=Quantization(weight_bits=8, activation_bits=8, simulated=True))
    assert profile_of(tmp_path / "w8a8", tmp_path).notes == ("activations quantized to 8 bits in simulation",)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("stored", CASES, ids=str)
def test_the_transformers_backend_serves_every_format_and_says_how(tmp_path, stored):
    publish_quantized(tmp_path / "model", "llama", stored)
    result = benchmark_of(tmp_path / "model", tmp_path)
    (note,) = result.notes
    assert note.startswith(f"served as dense weights: the {stored.format.value} quantization brings no speed here")
    assert "dequantized to float32 on load" in note
    assert ("activations quantized to 8 bits" in note) is (stored.quantization.activation_bits == 8)
    assert result.speeds[0].decode_tokens_per_second > 0
