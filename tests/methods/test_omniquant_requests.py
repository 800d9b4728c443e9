"""Whole OmniQuant requests on tiny models of every family: what comes out, what is recorded, what is refused."""

import pytest
import torch

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.checkpoint import open_checkpoint
from harness.contract import AttentionRounding, CheckpointFormat, Reason
from harness.errors import BadRequest, Unsupported
from harness.quantization.activations import attach
from tests.methods.compress_requests import LENGTH, SAMPLES, Requests, keep_models, logits_of, tensors_of
from tests.support.tiny_checkpoints import FAMILIES, LAYERS, publish_model, tiny_model, tiny_tokens

QUICK = {"epochs": 1}


@pytest.fixture
def compress(tmp_path):
    return Requests("omniquant", tmp_path)


def heavy_tailed(family):
    """Weights with outliers, for which the whole range is a poor grid."""
    model = tiny_model(family)
    for linear in linears_of(decoder_blocks(model)):
        linear.module.weight.copy_((linear.module.weight.sign() * linear.module.weight.abs() ** 2 * 7).bfloat16())
    return model


def in_memory_logits(model, quantization, tokens):
    handles = attach(decoder_blocks(model), quantization)
    logits = model(tokens).logits
    for handle in handles:
        handle.remove()
    return logits


FORMATS = {
    "W4A16g16": CheckpointFormat.PACK_QUANTIZED,
    "W8A8": CheckpointFormat.INT_QUANTIZED,
    "W4A4": CheckpointFormat.DENSE,
}
CASES = [
    *((family, "W4A4") for family in FAMILIES),
    *(("llama", setting) for setting in ("W4A16g16", "W8A8")),
]


@pytest.mark.parametrize(("family", "setting"), CASES)
def test_the_stored_checkpoint_computes_what_the_compressed_model_in_memory_did(
    tmp_path, compress, monkeypatch, family, setting
):
    """W4A4 learns the transformations, which each family has its own of; the others are other ways to store.

    Codes of every family are held by the test of all methods.
    """
    models = keep_models(monkeypatch)
    publish_model(tmp_path / "model", tiny_model(family))
    result, artifact, _ = compress(setting, **QUICK)
    described = result.artifact
    assert described == open_checkpoint(artifact, verify=True)
    assert described.format is FORMATS[setting]
    assert described.quantization.simulated is (setting == "W4A4")
    tokens = tiny_tokens(2, LENGTH)
    expected = in_memory_logits(models[0], described.quantization, tokens)
    assert torch.equal(logits_of(artifact, tokens), expected)
    assert not torch.allclose(expected, tiny_model(family)(tokens).logits, atol=1e-4)


def errors_of_blocks(result):
    return [result.layers[index * len(result.layers) // LAYERS].error for index in range(LAYERS)]


@pytest.mark.parametrize(("family", "setting"), [("llama", "W2A16"), ("opt", "W3A16g16"), ("llama", "W4A4")])
def test_training_brings_every_block_nearer_to_the_uncompressed_one_than_plain_rounding(
    tmp_path, compress, monkeypatch, family, setting
):
    publish_model(tmp_path / "model", heavy_tailed(family))
    trained, _, _ = compress(setting, lwc_lr=0.1, epochs=6)
    monkeypatch.setattr("harness.methods.omniquant.clipping._INITIAL_BOUND", 40.0)
    monkeypatch.setattr("harness.methods.omniquant.blocks.train", lambda *_: None)
    rounded, _, _ = compress(setting, let=False)
    pairs = list(zip(errors_of_blocks(trained), errors_of_blocks(rounded), strict=True))
    assert all(after < before for after, before in pairs)
    assert not any("worse" in note for note in trained.artifact.notes)


def test_a_block_that_training_made_worse_is_noted_with_both_errors(tmp_path, compress, monkeypatch):
    def clip_to_half(block, quantized, targets, schedule):
        (bounds,) = quantized.learned(schedule)
        for bound in bounds["params"]:
            bound.zero_()

    monkeypatch.setattr("harness.methods.omniquant.blocks.train", clip_to_half)
    publish_model(tmp_path / "model", tiny_model("llama"))
    result, _, _ = compress("W8A16")
    (note,) = [note for note in result.artifact.notes if "model.layers.0: training made the block worse" in note]
    assert f"to {result.layers[0].error:.4g};" in note


def test_each_linear_is_reported_with_the_error_of_its_block(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    result, _, _ = compress("W4A16", **QUICK)
    assert len({layer.error for layer in result.layers}) == LAYERS
    assert all(layer.error > 0 and layer.sparsity is None for layer in result.layers)


def test_all_that_was_left_open_is_recorded_as_decided(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("opt"))
    result, _, _ = compress("W4A4", **QUICK)
    assert result.artifact.options == {
        "epochs": 1,
        "lwc": True,
        "let": True,
        "lwc_lr": 0.01,
        "let_lr": 0.005,
        "alpha": 0.75,
        "aug_loss": False,
        "qk_scaling": "tied",
        "symmetric": False,
        "precision": "native",
        "layout": "dense",
        "batch_size": 1,
    }
    assert any("authors' for OPT" in note for note in result.artifact.notes)
    assert result.artifact.quantization.attention_bits == 4
    assert result.artifact.quantization.attention_rounding is AttentionRounding.PROJECTIONS
    assert result.artifact.quantization.activations_symmetric is False


@pytest.mark.parametrize(
    ("setting", "options", "checkpoint_format", "attention_bits"),
    [
        ("W4A16g16", {"layout": "gptq"}, CheckpointFormat.GPTQ, None),
        ("W4A16g16", {"layout": "dense"}, CheckpointFormat.DENSE, None),
        ("W4A16", {"symmetric": True}, CheckpointFormat.PACK_QUANTIZED, None),
        ("W8A8", {"symmetric": False, "layout": "dense"}, CheckpointFormat.DENSE, 8),
        ("W6A6", {"qk_scaling": "off", "aug_loss": True}, CheckpointFormat.DENSE, 6),
    ],
)
def test_the_options_choose_how_the_result_is_stored(
    tmp_path, compress, setting, options, checkpoint_format, attention_bits
):
    publish_model(tmp_path / "model", tiny_model("mistral"))
    result, artifact, _ = compress(setting, **QUICK, **options)
    assert result.artifact.format is checkpoint_format
    assert result.artifact.quantization.attention_bits == attention_bits
    assert result.artifact.quantization.attention_rounding is AttentionRounding.HEADS
    assert torch.isfinite(logits_of(artifact, tiny_tokens(1, LENGTH))).all()


def test_dense_and_packed_weights_stand_for_the_same_values(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    packed, dense = (compress("W4A16g16", **QUICK, layout=layout)[1] for layout in ("compressed-tensors", "dense"))
    tokens = tiny_tokens(2, LENGTH)
    assert torch.equal(logits_of(packed, tokens), logits_of(dense, tokens))


def test_sequences_shorter_than_a_batch_and_larger_batches_work(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    result, artifact, _ = compress("W4A16", **QUICK, batch_size=SAMPLES - 2, length=3)
    assert result.artifact.options["batch_size"] == SAMPLES - 2
    assert torch.isfinite(logits_of(artifact, tiny_tokens(1, 3))).all()


def test_without_a_transformation_the_norms_stay_as_they_were(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    _, artifact, _ = compress("W4A16g16", **QUICK)
    before, after = tensors_of(tmp_path / "model"), tensors_of(artifact)
    norms = [name for name in before if "norm" in name]
    assert norms
    assert all(torch.equal(before[name], after[name]) for name in norms)


def test_a_model_that_normalises_last_is_clipped_but_not_transformed(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("opt-post-norm"))
    result, _, _ = compress("W4A4", **QUICK)
    assert result.artifact.options["let"] is False
    assert any("norms come last" in note for note in result.artifact.notes)
    with pytest.raises(Unsupported, match="normalises after") as refusal:
        compress("W4A4", **QUICK, let=True)
    assert refusal.value.reason is Reason.ARCHITECTURE


def test_sizes_that_do_not_fill_the_words_of_the_gptq_layout_are_refused_before_any_work(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    with pytest.raises(
        Unsupported, match=r"multiples of 32; model\.layers\.0\.self_attn\.k_proj has 16 outputs"
    ) as refusal:
        compress("W3A16", layout="gptq")
    assert refusal.value.reason is Reason.SHAPE


@pytest.mark.parametrize(
    ("setting", "options", "error", "message"),
    [
        ("W4A8", {}, Unsupported, "no setting 'W4A8'"),
        ("W8A8g128", {}, Unsupported, "no setting 'W8A8g128'"),
        ("W4A16", {"epochs": 0}, BadRequest, "'epochs'"),
        ("W4A16", {"lwc_lr": 2.0}, BadRequest, "'lwc_lr'"),
        ("W4A16", {"qk_scaling": "free"}, BadRequest, "'qk_scaling' of omniquant cannot be 'free'"),
        ("W4A4", {"layout": "compressed-tensors"}, Unsupported, "no place for W4A4 asymmetric"),
        ("W8A8", {"symmetric": False}, Unsupported, "no place for W8A8 asymmetric"),
        ("W6A16", {"layout": "gptq"}, Unsupported, "does not hold weights of 6 bits"),
    ],
)
def test_a_setting_or_option_that_cannot_be_used_is_refused_before_anything_is_read(
    compress, setting, options, error, message
):
    with pytest.raises(error, match=message):
        compress(setting, **options)


def test_nothing_to_learn_is_refused(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    with pytest.raises(BadRequest, match="nothing to learn"):
        compress("W4A16", lwc=False)
