"""Whole requests on tiny models of every family: what comes out, what is left alone, what is refused."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.checkpoint import open_checkpoint
from harness.contract import (
    Dtype,
    Reason,
    Setting,
)
from harness.errors import BadCheckpoint, BadRequest, Unsupported
from tests.methods.compress_requests import LENGTH, Requests, tensors_of
from tests.support.tiny_checkpoints import (
    FAMILIES,
    LAYERS,
    publish_model,
    tiny_model,
    tiny_tokens,
)


@pytest.fixture
def compress(tmp_path):
    return Requests("sparsegpt", tmp_path)


def weights_of(folder):
    return {name: tensor.float() for name, tensor in tensors_of(folder).items()}


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(("family", "setting"), [*((family, "2:4") for family in FAMILIES), ("llama", "50%")])
def test_the_decoder_linears_are_pruned_as_asked_and_nothing_else_changes(tmp_path, compress, family, setting):
    model = tiny_model(family)
    parent = publish_model(tmp_path / "model", model)
    result, artifact, _ = compress(setting)
    pruned = {f"{linear.name}.weight" for linear in linears_of(decoder_blocks(model))}
    before, after = weights_of(tmp_path / "model"), weights_of(artifact)
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == pruned
    zeros = sum(int((after[name] == 0).sum()) for name in pruned)
    measured = zeros / sum(after[name].numel() for name in pruned)
    assert measured == pytest.approx(0.5, abs=0.01)
    assert result.artifact == open_checkpoint(artifact, verify=True)
    assert result.artifact.sparsity.measured == measured
    assert result.artifact.sparsity.pattern == ("unstructured" if setting == "50%" else setting)
    assert (result.artifact.parent, result.artifact.dtype) == (parent.digest, Dtype.BFLOAT16)
    if setting == "2:4":
        assert all(((after[name].reshape(-1, 4) == 0).sum(1) >= 2).all() for name in pruned)


@pytest.mark.parametrize("setting", ["4:8", "37.5%", "90%"])
def test_any_ratio_and_the_longer_pattern_are_reached(tmp_path, compress, setting):
    publish_model(tmp_path / "model", tiny_model("llama"))
    result, _, _ = compress(setting)
    assert result.artifact.sparsity.measured == pytest.approx(Setting.parse(setting).sparsity, abs=0.01)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_outputs_stay_closer_to_the_dense_model_than_after_magnitude_pruning(tmp_path, compress, family):
    model = tiny_model(family)
    publish_model(tmp_path / "model", model)
    _, artifact, _ = compress("2:4")
    tokens = tiny_tokens(8, LENGTH, seed=9)
    dense = model(tokens).logits
    pruned = load(artifact)(tokens).logits
    for linear in linears_of(decoder_blocks(model)):
        grouped = linear.module.weight.view(-1, 4)
        grouped.scatter_(1, grouped.abs().topk(2, dim=1, largest=False).indices, 0)
    assert (pruned - dense).square().mean() < (model(tokens).logits - dense).square().mean()


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_batch_size_does_not_change_the_weights(tmp_path, compress, family):
    publish_model(tmp_path / "model", tiny_model(family), Dtype.FLOAT32)
    one, four = (weights_of(compress("50%", batch_size=size)[1]) for size in (1, 4))
    assert all(torch.allclose(one[name], four[name], atol=1e-4) for name in one)
    assert all(torch.equal(one[name] == 0, four[name] == 0) for name in one)


def test_true_sequential_feeds_later_linears_with_the_pruned_earlier_ones(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"), Dtype.FLOAT32)
    plain, sequential = (weights_of(compress("50%", true_sequential=flag)[1]) for flag in (False, True))
    first = "model.layers.0.self_attn.q_proj.weight"
    later = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(plain[first], sequential[first])
    assert not torch.equal(plain[later], sequential[later])


def test_each_linear_is_reported_with_its_sparsity_error_and_time(tmp_path, compress):
    model = tiny_model("llama")
    publish_model(tmp_path / "model", model)
    result, _, events = compress("50%")
    assert [layer.name for layer in result.layers] == [linear.name for linear in linears_of(decoder_blocks(model))]
    assert all(layer.error > 0 for layer in result.layers)
    assert all(layer.sparsity == pytest.approx(0.5, abs=0.02) for layer in result.layers)
    assert result.cost.memory.peak_memory_bytes > 0
    layers = [event for event in events if event["event"] == "progress"]
    assert (layers[-1]["done"], layers[-1]["total"], layers[-1]["unit"]) == (LAYERS, LAYERS, "layer")


def test_a_pattern_that_does_not_divide_an_input_size_is_refused_with_the_layers(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    with pytest.raises(Unsupported, match=r"21 linear\(s\).*model\.layers\.0\.self_attn\.k_proj \(32\)") as refusal:
        compress("1:5", blocksize=125)
    assert refusal.value.reason is Reason.SHAPE


@pytest.mark.parametrize(
    ("setting", "options", "message"),
    [
        ("50%", {"blocksize": 0}, "'blocksize'"),
        ("50%", {"percdamp": 2.0}, "'percdamp'"),
        ("2:4", {"blocksize": 6}, "not a multiple of 4"),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_is_read(compress, setting, options, message):
    with pytest.raises(BadRequest, match=message):
        compress(setting, **options)


def test_a_checkpoint_that_overflows_is_refused_by_name(tmp_path, compress):
    model = tiny_model("llama")
    model.model.layers[1].input_layernorm.weight[3] = float("nan")
    publish_model(tmp_path / "model", model)
    with pytest.raises(BadCheckpoint, match=r"model\.layers\.1\.self_attn\.k_proj hold NaN"):
        compress("50%")
