"""Our layouts, configs and activation rounding beside those of the compressed-tensors library itself."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.contract import Device, Dtype, Quantization
from harness.models.loading import load_model
from harness.quantization import layouts
from harness.quantization.activations import fake_quantize_tokens
from harness.quantization.weight import QuantizedWeight
from tests.support.quantized_weights import AWQ, CASES, INT, PACK, case, publish_quantized, random_weight
from tests.support.tiny_checkpoints import tiny_tokens

pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")

from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.quantization.lifecycle.forward import fake_quantize

OURS = [one for one in CASES if one.format in (PACK, INT)]
SHAPES = [(bits, group, symmetric) for bits in range(2, 9) for group in (0, 8) for symmetric in (True, False)]


def library_config(checkpoint_format, quantization):
    return QuantizationConfig.model_validate(
        layouts.quantization_config(checkpoint_format, quantization, ignored=["lm_head"])
    )


def library_compress(checkpoint_format, weight: QuantizedWeight, activation_bits: int):
    """The library's own tensors for the same codes, which it finds again by rounding the dequantized weight."""
    quantization = Quantization(
        weight_bits=weight.bits,
        activation_bits=activation_bits,
        group_size=weight.group_size,
        symmetric=weight.symmetric,
    )
    scheme = library_config(checkpoint_format, quantization).config_groups["group_0"]
    middle = 2 ** (weight.bits - 1)
    state = {
        "weight": weight.dequantize(torch.float32),
        "weight_scale": weight.scale,
        "weight_zero_point": (weight.zero.to(torch.int16) - middle).to(torch.int8),
    }
    compressor = BaseCompressor.get_value_from_registry(checkpoint_format.value.rpartition("/")[2])
    return compressor, scheme, compressor.compress(state, scheme)


def assert_same_tensors(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype is theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize(("bits", "group_size", "symmetric"), SHAPES)
def test_packed_tensors_are_the_librarys_bit_for_bit(bits, group_size, symmetric):
    weight = random_weight(11, 40, bits, group_size, symmetric=symmetric)
    ours = layouts.encode(PACK, weight, torch.bfloat16)
    compressor, scheme, theirs = library_compress(PACK, weight, 16)
    assert_same_tensors(ours, theirs)
    assert torch.equal(compressor.decompress(ours, scheme)["weight"], weight.dequantize(torch.bfloat16))


def test_integer_tensors_are_the_librarys_bit_for_bit():
    weight = random_weight(11, 40, 8)
    ours = layouts.encode(INT, weight, torch.bfloat16)
    compressor, scheme, theirs = library_compress(INT, weight, 8)
    assert_same_tensors(ours, theirs)
    assert torch.equal(compressor.decompress(ours, scheme)["weight"], weight.dequantize(torch.bfloat16))


def test_the_library_converts_our_awq_into_our_packed_tensors():
    from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter

    weight = random_weight(16, 48, 4, 16, symmetric=False)
    config = layouts.quantization_config(AWQ, case(AWQ, 4, 16, False).quantization, ignored=[])
    awq = {f"up.{suffix}": tensor for suffix, tensor in layouts.encode(AWQ, weight, torch.bfloat16).items()}
    converted = AutoAWQConverter.from_autoawq_config(config).process(awq)
    packed = layouts.encode(PACK, weight, torch.bfloat16)
    assert_same_tensors({f"up.{suffix}": tensor for suffix, tensor in packed.items()}, converted)


@pytest.mark.parametrize("stored", OURS, ids=str)
def test_a_config_that_went_through_the_library_says_the_same(stored):
    written = library_config(stored.format, stored.quantization).to_dict()
    assert layouts.check_config(stored.format, stored.quantization, {"quantization_config": written})


@pytest.mark.parametrize(
    ("family", "stored"),
    [
        *((family, OURS[0]) for family in ("llama-tied", "qwen2", "gemma3", "glm", "opt", "opt-post-norm")),
        *(("opt", one) for one in OURS[1:]),
    ],
    ids=str,
)
def test_transformers_loads_our_checkpoint_through_the_library_with_the_same_weights(tmp_path, family, stored):
    publish_quantized(tmp_path / "model", family, stored).save_pretrained(tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.bfloat16).eval()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16).eval()
    for module in theirs.modules():
        module.quantization_enabled = False  # of the activations, whose rule differs: the weights are compressed
    tokens = tiny_tokens(2, 9)
    assert torch.equal(theirs(tokens).logits, plain(tokens).logits)
    ours = load_model(tmp_path / "model", Device(threads=1), Dtype.BFLOAT16)
    dequantized = dict(theirs.named_parameters())
    for name, parameter in ours.model.named_parameters():
        assert torch.equal(parameter, dequantized[name]), name


@pytest.mark.parametrize("bits", [4, 8])
def test_activations_are_rounded_as_the_library_does_with_the_same_scale(bits):
    """Its own symmetric scale is a little smaller: it counts half a code more on the positive side."""
    stored = Quantization(weight_bits=8, activation_bits=bits)
    arguments = library_config(PACK, stored).config_groups["group_0"].input_activations
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    scale = x.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    theirs = fake_quantize(x, scale, torch.zeros_like(scale), arguments)
    assert torch.equal(fake_quantize_tokens(x, bits, symmetric=True), theirs)
