"""Whole AWQ requests on tiny models of every family: what comes out, what is refused, what an interruption costs."""

import pytest
import torch

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.contract import CheckpointFormat, Dtype, Reason, Setting
from harness.errors import BadRequest, Unsupported
from harness.methods.awq import method as awq
from harness.methods.job import parse_request
from harness.models.loading import TORCH_DTYPES
from tests.methods.compress_requests import keep_models
from tests.methods.small_runs import LENGTH, Bench, compress_in_place, parameters
from tests.support.tiny_checkpoints import FAMILIES, tiny_model, tiny_tokens

FIRST_NORM = [family for family in FAMILIES if family != "opt-post-norm"]
TOKENS = tiny_tokens(4, LENGTH, seed=9)


@pytest.fixture
def compressed_models(monkeypatch):
    """The models that the requests compressed, as they were left in memory."""
    return keep_models(monkeypatch)


@pytest.mark.parametrize("family", FIRST_NORM)
def test_what_is_stored_gives_the_logits_of_the_model_that_was_compressed(tmp_path, compressed_models, family):
    bench = Bench(tmp_path, tiny_model(family))
    result = bench.compress("awq", "W4A16g16")
    stored = bench.load().model(TOKENS).logits
    assert torch.equal(stored, compressed_models[0](TOKENS).logits)
    assert not torch.equal(stored, tiny_model(family)(TOKENS).logits)
    artifact = result.artifact
    assert (artifact.format, artifact.dtype) == (CheckpointFormat.PACK_QUANTIZED, Dtype.BFLOAT16)
    assert (artifact.quantization.weight_bits, artifact.quantization.group_size) == (4, 16)
    assert not artifact.quantization.symmetric
    assert not artifact.quantization.simulated
    names = [linear.name for linear in linears_of(decoder_blocks(tiny_model(family)))]
    assert [layer.name for layer in result.layers] == names


@pytest.mark.parametrize("symmetric", [False, True])
def test_every_layout_holds_the_same_weights(tmp_path, symmetric):
    bench = Bench(tmp_path, tiny_model("llama"))
    logits = []
    for layout, made in awq._FORMATS.items():
        artifact = bench.compress("awq", "W4A16g8", layout, layout=layout, symmetric=symmetric).artifact
        assert artifact.format is made
        assert artifact.quantization.symmetric == symmetric
        assert artifact.quantization.simulated == (layout == "dense")
        logits.append(bench.load(layout).model(TOKENS).logits)
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("dtype", [Dtype.FLOAT16, Dtype.BFLOAT16])
@pytest.mark.parametrize("family", ["llama", "opt", "glm"])
def test_a_model_computed_in_half_precision_gets_nearly_the_same_scales(tmp_path, family, dtype):
    norms = []
    for compute in (Dtype.FLOAT32, dtype):
        model = tiny_model(family).to(TORCH_DTYPES[compute])
        compress_in_place(model, tiny_tokens(6, LENGTH), tmp_path / compute, "awq", "W4A16g16", dtype)
        blocks = decoder_blocks(model)
        norms.append(torch.stack([norm.weight for block in blocks for norm in (block.input_norm, block.mlp_norm)]))
        assert torch.isfinite(model(TOKENS).logits).all()
    difference = (norms[0].float() - norms[1].float()).norm() / (norms[0].float() - 1).norm()
    assert difference < 0.5


@pytest.mark.parametrize("setting", ["W3A16", "W4A16", "W8A16g8", "W2A16g16"])
def test_each_weight_is_one_of_the_values_that_its_group_can_take(tmp_path, setting):
    model = tiny_model("llama")
    _, finished = compress_in_place(model, tiny_tokens(6, LENGTH), tmp_path / "blocks", "awq", setting)
    bits = int(setting[1])
    for block in decoder_blocks(model):
        for linear in block.linears:
            quantized = finished.quantized(block, linear.name)
            assert int(quantized.codes.max()) < 2**bits
            assert torch.equal(quantized.dequantize(torch.float32), linear.module.weight)
            size = linear.module.in_features // quantized.scale.shape[1]
            assert size == (Setting.parse(setting).group_size or linear.module.in_features)
            assert all(len(group.unique()) <= 2**bits for group in linear.module.weight.reshape(-1, size))


@pytest.mark.parametrize("family", ["llama", "opt", "glm4"])
def test_each_search_brings_the_outputs_closer_to_the_dense_model(tmp_path, family):
    dense = tiny_model(family)
    for block in decoder_blocks(dense):
        block.input_norm.weight[:3] *= 8
        block.mlp_norm.weight[:3] *= 8
    expected = dense(TOKENS).logits

    def error(name, **options):
        model = tiny_model(family)
        model.load_state_dict(dense.state_dict())
        compress_in_place(model, tiny_tokens(16, LENGTH), tmp_path / name, "awq", "W3A16g16", **options)
        return float((model(TOKENS).logits - expected).square().mean())

    rounding = error("rounding", search_scale=False, search_clip=False)
    assert error("scale", search_clip=False) < rounding
    assert error("both") < rounding


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_batch_size_does_not_change_the_scales(tmp_path, family):
    norms = []
    for size in (1, 4):
        model = tiny_model(family)
        compress_in_place(model, tiny_tokens(6, LENGTH), tmp_path / f"{size}", "awq", "W4A16g16", batch_size=size)
        blocks = decoder_blocks(model)
        norms.append(torch.stack([norm.weight for block in blocks for norm in (block.input_norm, block.mlp_norm)]))
    assert not torch.equal(norms[0], torch.ones_like(norms[0]))
    torch.testing.assert_close(*norms, rtol=1e-4, atol=1e-4)


def test_the_descriptor_says_what_was_done(tmp_path):
    result = Bench(tmp_path, tiny_model("llama")).compress("awq", "W4A16g16", n_grid=10)
    assert result.artifact.options == {
        "search_scale": True,
        "search_clip": True,
        "duo_scaling": False,
        "n_grid": 10,
        "max_shrink": 0.5,
        "search_tokens": 65536,
        "symmetric": False,
        "layout": "compressed-tensors",
        "batch_size": 4,
    }
    assert any("in 3 block(s): several heads share their values" in note for note in result.artifact.notes)
    errors = {layer.name.rpartition(".")[2]: layer.error for layer in result.layers}
    assert errors["o_proj"] is None
    assert errors["q_proj"] == errors["k_proj"] > 0
    assert errors["down_proj"] > 0


def test_a_part_of_the_text_is_searched_on_but_all_of_it_is_observed(tmp_path):
    outcomes = {}
    for tokens in (0, 2 * LENGTH, 6 * LENGTH):
        model = tiny_model("llama")
        options = {"search_tokens": tokens, "batch_size": 1}
        outcome, _ = compress_in_place(
            model, tiny_tokens(6, LENGTH), tmp_path / f"{tokens}", "awq", "W4A16g16", **options
        )
        outcomes[tokens] = outcome
    errors = {tokens: {layer.name: layer.error for layer in one.layers} for tokens, one in outcomes.items()}
    assert errors[6 * LENGTH] == errors[0]
    assert errors[2 * LENGTH]["model.layers.0.mlp.down_proj"] == errors[0]["model.layers.0.mlp.down_proj"]
    assert errors[2 * LENGTH]["model.layers.0.mlp.up_proj"] != errors[0]["model.layers.0.mlp.up_proj"]
    notes = {tokens: [note for note in one.notes if "searched" in note] for tokens, one in outcomes.items()}
    assert notes[0] == notes[6 * LENGTH] == []
    assert "2 of 6 calibration sequences" in notes[2 * LENGTH][0]


def test_duo_scaling_is_another_search(tmp_path):
    bench = Bench(tmp_path, tiny_model("llama"))
    plain, duo = (bench.compress("awq", "W4A16g16", str(flag), duo_scaling=flag).artifact for flag in (False, True))
    assert {name: entry.sha256 for name, entry in plain.files.items()} != {
        name: entry.sha256 for name, entry in duo.files.items()
    }


def test_blocks_that_normalise_afterwards_are_refused_unless_no_scale_is_searched(tmp_path):
    bench = Bench(tmp_path, tiny_model("opt-post-norm"))
    with pytest.raises(Unsupported, match="normalises after") as refusal:
        bench.compress("awq", "W4A16g16")
    assert refusal.value.reason is Reason.ARCHITECTURE
    assert bench.compress("awq", "W4A16g16", search_scale=False).artifact.quantization.weight_bits == 4


@pytest.mark.parametrize(
    ("setting", "options", "error", "message"),
    [
        ("W16A16", {}, Unsupported, "no setting 'W16A16'"),
        ("W8A16g16", {"layout": "awq"}, Unsupported, "awq does not hold weights of 8 bits"),
        ("W4A16", {"layout": "gguf"}, BadRequest, "'layout' of awq cannot be 'gguf'"),
        ("W4A16", {"max_shrink": 0.0}, BadRequest, "'max_shrink'"),
    ],
)
def test_a_setting_or_option_that_cannot_be_used_is_refused_before_anything_is_read(setting, options, error, message):
    with pytest.raises(error, match=message):
        parse_request(parameters("awq", setting, **options))


def test_rows_that_do_not_fill_the_words_of_the_awq_layout_are_refused_with_the_layers():
    blocks = decoder_blocks(tiny_model("llama"))
    blocks[0].linears[0].module.out_features = 12
    with pytest.raises(Unsupported, match=r"multiples of 8; 1 have others: model\.layers\.0\.self_attn\.k_proj \(12\)"):
        parse_request(parameters("awq", "W4A16g16", layout="awq")).check(blocks)


def test_short_sequences_of_different_lengths_are_taken(tmp_path):
    model = tiny_model("llama")
    sequences = [tiny_tokens(1, length, seed=length)[0] for length in (1, 7, 7, 2)]
    outcome, _ = compress_in_place(model, sequences, tmp_path / "blocks", "awq", "W4A16g16")
    assert len(outcome.layers) == len(linears_of(decoder_blocks(model)))
    assert torch.isfinite(model(TOKENS).logits).all()
