"""Rounding to nearest against its definition, one group at a time, by whole requests in every layout."""

import pytest
import torch

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.contract import AttentionRounding, CheckpointFormat, Quantization, Reason
from harness.errors import BadRequest, Unsupported
from tests.methods.compress_requests import LENGTH, Requests, keep_models, logits_of
from tests.support.tiny_checkpoints import publish_model, tiny_model, tiny_tokens

TOKENS = tiny_tokens(2, LENGTH)


@pytest.fixture
def compress(tmp_path):
    return Requests("rtn", tmp_path)


def reference(weight, bits, group_size, symmetric):
    """The rounded weights of bfloat16 scales: every loop is written out."""
    rounded = torch.empty_like(weight)
    size = group_size or weight.shape[1]
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], size):
            values = weight[row, start : start + size].tolist()
            if symmetric:
                top = 2 ** (bits - 1) - 1
                low, high, zero = -top - 1, top, 0
                scale = stored(max(abs(value) for value in values) / top)
            else:
                smallest, largest = min(0.0, *values), max(0.0, *values)
                low, high = 0, 2**bits - 1
                scale = stored((largest - smallest) / high)
                zero = min(max(-nearest(smallest, scale), 0), high)
            codes = [min(max(nearest(value, scale) + zero, low), high) - zero for value in values]
            rounded[row, start : start + size] = torch.tensor([scale * code for code in codes]).bfloat16().float()
    return rounded


def nearest(value, scale):
    """Half-way values go to the even one, and the quotient is one of 32-bit floats."""
    return int((torch.tensor(value) / torch.tensor(scale)).round())


def stored(scale):
    return float(torch.tensor(scale).bfloat16())


CASES = [
    ("W2A16", {}, 2, 0, False),
    ("W3A16g8", {}, 3, 8, False),
    ("W4A16", {}, 4, 0, False),
    ("W4A16g16", {}, 4, 16, False),
    ("W4A16g16", {"symmetric": True}, 4, 16, True),
    ("W8A16", {"symmetric": True}, 8, 0, True),
    ("W8A8", {}, 8, 0, True),
    ("W6A6", {}, 6, 0, True),
    ("W4A4", {"symmetric": False}, 4, 0, False),
]


@pytest.mark.parametrize(("setting", "options", "bits", "group", "symmetric"), CASES)
def test_every_weight_becomes_the_nearest_value_of_its_grid(
    tmp_path, compress, monkeypatch, setting, options, bits, group, symmetric
):
    models = keep_models(monkeypatch)
    model = tiny_model("llama")
    publish_model(tmp_path / "model", model)
    result, _, _ = compress(setting, **options)
    made = dict(models[0].named_parameters())
    for linear in linears_of(decoder_blocks(model))[:5]:
        expected = reference(linear.module.weight, bits, group, symmetric)
        assert torch.equal(made[f"{linear.name}.weight"], expected), linear.name
    quantization = result.artifact.quantization
    assert (quantization.weight_bits, quantization.group_size, quantization.symmetric) == (bits, group, symmetric)
    assert result.artifact.calibrated_on is None


@pytest.mark.parametrize(
    ("setting", "options", "made"),
    [
        ("W4A16g16", {}, CheckpointFormat.PACK_QUANTIZED),
        ("W4A16g16", {"layout": "gptq"}, CheckpointFormat.GPTQ),
        ("W4A16g16", {"layout": "gptq", "symmetric": True}, CheckpointFormat.GPTQ),
        ("W4A16g16", {"layout": "awq"}, CheckpointFormat.AWQ),
        ("W4A16g16", {"layout": "dense"}, CheckpointFormat.DENSE),
        ("W8A16", {"symmetric": True}, CheckpointFormat.PACK_QUANTIZED),
        ("W8A8", {}, CheckpointFormat.INT_QUANTIZED),
        ("W8A8", {"layout": "dense"}, CheckpointFormat.DENSE),
    ],
    ids=str,
)
def test_every_layout_holds_the_same_weights(tmp_path, compress, monkeypatch, setting, options, made):
    models = keep_models(monkeypatch)
    publish_model(tmp_path / "model", tiny_model("llama"))
    result, artifact, _ = compress(setting, **options)
    assert result.artifact.format is made
    assert result.artifact.quantization.simulated == (made is CheckpointFormat.DENSE)
    if result.artifact.quantization.activation_bits == 16:
        assert torch.equal(logits_of(artifact, TOKENS), models[0](TOKENS).logits)


@pytest.mark.parametrize("family", ["llama", "gemma3", "glm", "opt-post-norm"])
def test_more_bits_come_nearer_to_the_dense_model(tmp_path, compress, family):
    model = tiny_model(family)
    publish_model(tmp_path / "model", model)
    dense = model(TOKENS).logits
    changes = [
        float((logits_of(compress(setting)[1], TOKENS) - dense).square().mean()) for setting in ("W2A16", "W8A16")
    ]
    assert changes == sorted(changes, reverse=True)
    assert changes[1] > 0


@pytest.mark.parametrize("rounding", AttentionRounding)
def test_queries_keys_and_values_are_rounded_where_the_request_says(tmp_path, compress, rounding):
    publish_model(tmp_path / "model", tiny_model("llama"))
    plain, _, _ = compress("W4A4", symmetric=False)
    result, artifact, _ = compress("W4A4", symmetric=False, attention=rounding.value)
    expected = {"attention_bits": 4, "attention_rounding": rounding}
    assert result.artifact.quantization == plain.artifact.quantization.model_copy(update=expected)
    assert plain.artifact.quantization == Quantization(
        weight_bits=4, activation_bits=4, symmetric=False, activations_symmetric=False, simulated=True
    )
    assert torch.isfinite(logits_of(artifact, TOKENS)).all()


@pytest.mark.parametrize(
    ("setting", "options", "error", "message"),
    [
        ("50%", {}, Unsupported, "rtn rounds weights"),
        ("W9A16", {}, Unsupported, "2 to 8 bits"),
        ("W8A8g16", {}, Unsupported, "has no 'W8A8g16'"),
        ("W8A8", {"layout": "gptq"}, Unsupported, "'gptq' has no place for W8A8, symmetric"),
        ("W8A8", {"layout": "compressed-tensors", "symmetric": False}, Unsupported, "W8A8, asymmetric"),
        ("W8A8", {"layout": "compressed-tensors", "attention": "heads"}, Unsupported, "queries, keys and values"),
        ("W6A6", {"layout": "compressed-tensors"}, Unsupported, "no place for W6A6"),
        ("W3A16", {"layout": "awq"}, Unsupported, "awq does not hold weights of 3 bits"),
        ("W5A16", {"layout": "gptq"}, Unsupported, "gptq does not hold weights of 5 bits"),
        ("W4A16", {"attention": "heads"}, BadRequest, "leaves activations as they are"),
        ("W4A16", {"layout": "gguf"}, BadRequest, "'layout' of rtn cannot be 'gguf'"),
    ],
)
def test_what_no_layout_holds_is_refused(compress, setting, options, error, message):
    with pytest.raises(error, match=message):
        compress(setting, **options)


def test_output_sizes_that_the_awq_layout_cannot_pack_are_refused_before_any_work(tmp_path, compress):
    model = tiny_model("llama")
    config = type(model.config)(**(model.config.to_dict() | {"intermediate_size": 44}))
    publish_model(tmp_path / "model", type(model)(config).requires_grad_(requires_grad=False))
    with pytest.raises(Unsupported, match="output sizes that are multiples of 8; 6 have others") as refusal:
        compress("W4A16", layout="awq")
    assert refusal.value.reason is Reason.SHAPE
