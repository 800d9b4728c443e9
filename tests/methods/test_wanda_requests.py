"""Whole Wanda requests on tiny models of every family."""

import pytest
import torch

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.checkpoint import open_checkpoint
from harness.contract import Reason
from harness.errors import BadRequest, Unsupported
from tests.methods.compress_requests import LENGTH, Requests, logits_of, tensors_of
from tests.support.tiny_checkpoints import FAMILIES, publish_model, tiny_model, tiny_tokens


@pytest.fixture
def compress(tmp_path):
    return Requests("wanda", tmp_path)


@pytest.mark.parametrize(("family", "setting"), [*((family, "2:4") for family in FAMILIES), ("llama", "50%")])
def test_every_row_of_the_decoder_linears_is_pruned_as_asked_and_nothing_else_changes(
    tmp_path, compress, family, setting
):
    model = tiny_model(family)
    parent = publish_model(tmp_path / "model", model)
    result, artifact, _ = compress(setting)
    pruned = {f"{linear.name}.weight" for linear in linears_of(decoder_blocks(model))}
    before, after = tensors_of(tmp_path / "model"), tensors_of(artifact)
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == pruned
    for name in pruned:
        zero = after[name] == 0
        assert torch.equal(after[name][~zero], before[name][~zero]), "the weights that stay keep their values"
        length = zero.shape[1] if setting == "50%" else 4
        assert (zero.reshape(-1, length).sum(dim=1) == length // 2).all()
    assert result.artifact == open_checkpoint(artifact, verify=True)
    assert (result.artifact.parent, result.artifact.sparsity.measured) == (parent.digest, 0.5)


def test_the_ratio_of_a_row_is_rounded_down(tmp_path, compress):
    model = tiny_model("llama")
    publish_model(tmp_path / "model", model)
    _, artifact, _ = compress("30%")
    after = tensors_of(artifact)
    for linear in linears_of(decoder_blocks(model)):
        zeros = (after[f"{linear.name}.weight"] == 0).sum(dim=1)
        assert (zeros == int(linear.module.in_features * 0.3)).all()


def test_the_outputs_stay_closer_to_the_dense_model_than_after_magnitude_pruning(tmp_path, compress):
    model = tiny_model("llama")
    scaling = torch.logspace(0, 1.5, model.config.hidden_size)[torch.randperm(model.config.hidden_size)]
    for layer in model.model.layers:
        layer.input_layernorm.weight.copy_(scaling.bfloat16())
        layer.post_attention_layernorm.weight.copy_(scaling.bfloat16())
    publish_model(tmp_path / "model", model)
    _, artifact, _ = compress("50%")
    tokens = tiny_tokens(8, LENGTH, seed=9)
    dense, pruned = model(tokens).logits, logits_of(artifact, tokens)
    for linear in linears_of(decoder_blocks(model)):
        weight = linear.module.weight
        weight.scatter_(1, weight.abs().topk(weight.shape[1] // 2, dim=1, largest=False).indices, 0)
    assert (pruned - dense).square().mean() < (model(tokens).logits - dense).square().mean()


def test_the_variant_reaches_the_ratio_with_rows_that_differ(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    result, artifact, _ = compress("50%", variant=True)
    assert result.artifact.sparsity.measured == pytest.approx(0.5, abs=0.01)
    assert result.artifact.options == {"variant": True, "batch_size": 4}
    zeros = (tensors_of(artifact)["model.layers.0.mlp.down_proj.weight"] == 0).sum(dim=1)
    assert len(set(zeros.tolist())) > 1


def test_the_variant_says_where_it_falls_short_of_the_ratio(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    result, _, _ = compress("97%", variant=True)
    assert result.artifact.sparsity.measured < 0.96
    assert any("the variant reached a sparsity of 0." in note for note in result.artifact.notes)


@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_sequences_suffice(tmp_path, compress, length):
    publish_model(tmp_path / "model", tiny_model("llama"))
    result, _, _ = compress("50%", length=length)
    assert result.artifact.sparsity.measured == 0.5


def test_the_variant_chooses_ratios_alone(compress):
    with pytest.raises(BadRequest, match="does not allow"):
        compress("2:4", variant=True)


def test_a_pattern_that_does_not_divide_an_input_size_is_refused_with_the_layers(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    with pytest.raises(Unsupported, match=r"21 linear\(s\)") as refusal:
        compress("2:5")
    assert refusal.value.reason is Reason.SHAPE
