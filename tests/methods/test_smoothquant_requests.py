"""Whole SmoothQuant requests on tiny models of every family: what comes out, what is refused, what is resumed."""

import pytest
import torch

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.contract import AttentionRounding, CheckpointFormat, Quantization, Reason
from harness.errors import BadRequest, Unsupported
from harness.methods.job import parse_request
from harness.methods.numerics.rounding import RoundingGrid, quantize
from harness.methods.numerics.scaling import PairKind, smoothable_pairs
from harness.quantization.activations import attach
from tests.methods.compress_requests import keep_models
from tests.methods.small_runs import LENGTH, Bench, compress_in_place, parameters
from tests.support.tiny_checkpoints import FAMILIES, tiny_model, tiny_tokens

FIRST_NORM = [family for family in FAMILIES if family != "opt-post-norm"]
TOKENS = tiny_tokens(4, LENGTH, seed=9)


@pytest.fixture
def compressed_models(monkeypatch):
    """The models that the requests compressed, as they were left in memory."""
    return keep_models(monkeypatch)


@pytest.mark.parametrize(
    ("setting", "expected"), [("W8A8", CheckpointFormat.INT_QUANTIZED), ("W4A4", CheckpointFormat.DENSE)]
)
@pytest.mark.parametrize("family", FIRST_NORM)
def test_what_is_stored_gives_the_logits_of_the_compressed_model_with_rounded_activations(
    tmp_path, compressed_models, family, setting, expected
):
    bench = Bench(tmp_path, tiny_model(family))
    artifact = bench.compress("smoothquant", setting).artifact
    bits = int(setting[1])
    assert artifact.format is expected
    assert artifact.quantization == Quantization(
        weight_bits=bits, activation_bits=bits, simulated=expected is CheckpointFormat.DENSE
    )
    model = compressed_models[0]
    without = model(TOKENS).logits
    attach(decoder_blocks(model), artifact.quantization)
    stored = bench.load().model(TOKENS).logits
    assert torch.equal(stored, model(TOKENS).logits)
    assert not torch.equal(stored, without)


def test_smoothing_alone_changes_the_outputs_by_rounding_only(tmp_path):
    model = tiny_model("opt")
    before = model(TOKENS).logits
    compress_in_place(model, tiny_tokens(6, LENGTH), tmp_path / "blocks", "smoothquant", "W8A8")
    assert float((model(TOKENS).logits - before).abs().max()) < 0.05 * float(before.abs().max())


def with_large_channels(family):
    """Two channels of each norm are 60 times as large, and the linears make up for it: the same function."""
    model = tiny_model(family)
    for block in decoder_blocks(model):
        scale = torch.ones(block.groups[0].in_features)
        scale[:2] = 1 / 60
        for kind in (PairKind.INPUT_NORM, PairKind.MLP_NORM):
            smoothable_pairs(block).found[kind].fold(scale)
    return model


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_smoothing_helps_where_some_channels_are_much_larger_than_others(tmp_path, family):
    smoothed, plain = with_large_channels(family), with_large_channels(family)
    dense = plain(TOKENS).logits
    compress_in_place(smoothed, tiny_tokens(6, LENGTH), tmp_path / "blocks", "smoothquant", "W8A8")
    for linear in linears_of(decoder_blocks(plain)):
        rounded = quantize(linear.module.weight, RoundingGrid(8, 0, symmetric=True, scale_dtype=torch.float32))
        linear.module.weight.copy_(rounded.dequantize(torch.float32))
    for model in (smoothed, plain):
        attach(decoder_blocks(model), Quantization(weight_bits=8, activation_bits=8))
    errors = [float((model(TOKENS).logits - dense).square().mean()) for model in (smoothed, plain)]
    assert errors[0] < errors[1] / 2


def test_only_what_follows_a_norm_is_smoothed_but_all_linears_are_rounded(tmp_path):
    model, dense = tiny_model("llama"), tiny_model("llama")
    _, finished = compress_in_place(model, tiny_tokens(6, LENGTH), tmp_path / "blocks", "smoothquant", "W8A8")
    for block, before in zip(decoder_blocks(model), decoder_blocks(dense), strict=True):
        assert not torch.equal(block.input_norm.weight, before.input_norm.weight)
        for linear, old in zip(block.linears, before.linears, strict=True):
            change = (linear.module.weight - old.module.weight).abs()
            step = finished.quantized(block, linear.name).scale
            smoothed = not linear.name.endswith(("o_proj", "down_proj"))
            assert bool((change > step).any()) == smoothed


def test_the_descriptor_holds_the_alpha_that_was_chosen_and_why(tmp_path):
    artifact = Bench(tmp_path, tiny_model("llama")).compress("smoothquant", "W8A8").artifact
    assert artifact.options == {
        "alpha": 0.8,
        "quantize_bmm": False,
        "layout": "compressed-tensors",
        "batch_size": 4,
    }
    assert any(note.startswith("alpha is 0.8: the authors' value for LLaMA-1") for note in artifact.notes)


def test_an_alpha_that_was_asked_for_is_taken_without_a_note(tmp_path):
    artifact = Bench(tmp_path, tiny_model("llama")).compress("smoothquant", "W8A8", alpha=0.3).artifact
    assert artifact.options["alpha"] == 0.3
    assert not any("alpha" in note for note in artifact.notes)


def test_rounded_queries_keys_and_values_are_simulated(tmp_path):
    bench = Bench(tmp_path, tiny_model("llama"))
    artifact = bench.compress("smoothquant", "W8A8", quantize_bmm=True, layout="dense").artifact
    assert artifact.format is CheckpointFormat.DENSE
    assert artifact.quantization.attention_bits == 8
    assert artifact.quantization.attention_rounding is AttentionRounding.PROJECTIONS
    assert artifact.quantization.simulated


def test_int_weights_can_be_stored_dense(tmp_path):
    bench = Bench(tmp_path, tiny_model("opt"))
    bench.compress("smoothquant", "W8A8", "packed")
    artifact = bench.compress("smoothquant", "W8A8", layout="dense").artifact
    assert (artifact.format, artifact.quantization.simulated) == (CheckpointFormat.DENSE, True)
    assert torch.equal(bench.load().model(TOKENS).logits, bench.load("packed").model(TOKENS).logits)


def test_blocks_that_normalise_afterwards_are_refused(tmp_path):
    bench = Bench(tmp_path, tiny_model("opt-post-norm"))
    with pytest.raises(Unsupported, match="normalises after") as refusal:
        bench.compress("smoothquant", "W8A8")
    assert refusal.value.reason is Reason.ARCHITECTURE


@pytest.mark.parametrize(
    ("setting", "options", "error", "message"),
    [
        ("W4A4", {"layout": "compressed-tensors"}, Unsupported, "no place for W4A4"),
        ("W8A8", {"quantize_bmm": True}, Unsupported, "no place for quantized queries"),
        ("W8A8", {"alpha": 1.5}, BadRequest, "'alpha'"),
    ],
)
def test_a_setting_or_option_that_cannot_be_used_is_refused_before_anything_is_read(setting, options, error, message):
    with pytest.raises(error, match=message):
        parse_request(parameters("smoothquant", setting, **options))


def test_short_sequences_of_different_lengths_are_taken(tmp_path):
    model = tiny_model("llama")
    sequences = [tiny_tokens(1, length, seed=length)[0] for length in (1, 7, 7, 2)]
    outcome, _ = compress_in_place(model, sequences, tmp_path / "blocks", "smoothquant", "W8A8")
    assert len(outcome.layers) == len(linears_of(decoder_blocks(model)))
