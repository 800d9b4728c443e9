"""Scales that move inside a block leave its output as it was: in float64, to the last digits."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from harness.architectures.blocks import decoder_blocks
from harness.contract import Reason
from harness.errors import Unsupported
from harness.methods.numerics.scaling import (
    PairKind,
    fold_into_linear,
    fold_into_norm,
    missing_pairs,
    smoothable_pairs,
    storable_scale,
)
from harness.methods.skeleton.stream import open_stream
from tests.support.tiny_checkpoints import FAMILIES, tiny_model, tiny_tokens, with_exact_norms

TOKENS = tiny_tokens(3, 9)
FIRST_NORM = [family for family in FAMILIES if family != "opt-post-norm"]


def exact_model(family):
    """In float64, with biases and norms that are not the zeros and ones that they start as."""
    model = with_exact_norms(tiny_model(family).double())
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def all_heads_llama():
    """As many value heads as query heads, which none of the tiny families has but OPT."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        attention_bias=True,
        mlp_bias=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).double().eval().requires_grad_(False)


def outputs(model, block):
    stream = open_stream(model, decoder_blocks(model), TOKENS, batch_size=3, device=torch.device("cpu"))
    return stream.forward(block, 0)


def positive(size):
    return torch.exp(torch.randn(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64))


@pytest.mark.parametrize("kind", PairKind)
@pytest.mark.parametrize("family", [*FIRST_NORM, "all heads"])
def test_a_scale_moved_between_a_pair_leaves_the_output_of_the_block_unchanged(family, kind):
    model = all_heads_llama() if family == "all heads" else exact_model(family)
    block = decoder_blocks(model)[0]
    pairs = smoothable_pairs(block)
    if kind is PairKind.VALUE_OUTPUT and family not in ("opt", "gemma3-full", "all heads"):
        assert "several heads share their values" in pairs.missing[kind]
        return
    before = outputs(model, block)
    weights = [linear.module.weight.clone() for linear in block.linears]
    pair = pairs.found[kind]
    pair.fold(positive(pair.after.in_features))
    assert any(not torch.equal(old, linear.module.weight) for old, linear in zip(weights, block.linears, strict=True))
    torch.testing.assert_close(outputs(model, block), before, rtol=1e-12, atol=1e-12)


def test_all_pairs_together_leave_the_logits_unchanged():
    model = all_heads_llama()
    before = model(TOKENS).logits
    for block in decoder_blocks(model):
        pairs = smoothable_pairs(block)
        assert list(pairs.found) == list(PairKind)
        for pair in pairs.found.values():
            pair.fold(positive(pair.after.in_features))
    torch.testing.assert_close(model(TOKENS).logits, before, rtol=1e-10, atol=1e-10)


def test_norms_that_add_1_to_their_weight_hold_their_scale_exactly_once_they_are_rounded():
    model = exact_model("gemma3-full")
    blocks = decoder_blocks(model)
    norms = [norm for block in blocks for norm in (block.input_norm, block.mlp_norm)]
    for norm in norms:
        norm.weight.copy_(torch.linspace(-0.999, 3, len(norm.weight)).bfloat16())
        norm.weight[:2] = torch.tensor([-1.0, -0.99609375])
    before = model(TOKENS).logits
    for block in blocks:
        for pair in smoothable_pairs(block).found.values():
            scale = positive(pair.after.in_features) * 100
            used = pair.fold(scale, torch.bfloat16)
            assert bool(torch.isfinite(used).all())
            if isinstance(pair.before, nn.Linear):
                assert torch.equal(used, scale)
    for norm in norms:
        rounded = norm.weight.bfloat16().double()
        torch.testing.assert_close(norm.weight, rounded, rtol=1e-14, atol=1e-14)
        norm.weight.copy_(rounded)
    torch.testing.assert_close(model(TOKENS).logits, before, rtol=1e-9, atol=1e-9)


def test_a_norm_that_multiplies_by_its_weight_alone_takes_any_scale_as_it_is():
    scale = positive(32)
    assert storable_scale(torch.ones(32), scale, torch.bfloat16, offset=0) is scale


def test_of_a_fused_gate_and_up_only_the_up_rows_are_divided():
    fused, down = nn.Linear(4, 6).requires_grad_(False), nn.Linear(3, 4).requires_grad_(False)
    weight, bias = fused.weight.clone(), fused.bias.clone()
    scale = torch.tensor([2.0, 4.0, 8.0])
    fold_into_linear(fused, [down], scale)
    assert torch.equal(fused.weight[:3], weight[:3])
    assert torch.equal(fused.weight[3:], weight[3:] / scale.unsqueeze(1))
    assert torch.equal(fused.bias, torch.cat([bias[:3], bias[3:] / scale]))


def test_half_precision_parameters_are_rounded_once():
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(64).bfloat16(), nn.Linear(64, 5, bias=False).bfloat16()
    norm.requires_grad_(False).weight.uniform_()
    linear.requires_grad_(False)
    expected_norm, expected = norm.weight.double(), linear.weight.double()
    scale = positive(64).float()
    fold_into_norm(norm, [linear], scale)
    assert torch.equal(norm.weight, (expected_norm / scale.double()).bfloat16())
    assert torch.equal(linear.weight, (expected * scale.double()).bfloat16())


def test_a_block_that_normalises_afterwards_is_refused_by_name():
    (block, *_) = decoder_blocks(tiny_model("opt-post-norm"))
    with pytest.raises(Unsupported, match=r"model\.decoder\.layers\.0 normalises after") as refusal:
        smoothable_pairs(block)
    assert refusal.value.reason is Reason.ARCHITECTURE


def test_an_activation_that_is_no_relu_lets_no_scale_through():
    (block, *_) = decoder_blocks(tiny_model("opt"))
    block.module.activation_fn = nn.GELU()
    assert "GELU" in smoothable_pairs(block).missing[PairKind.UP_DOWN]


def test_a_norm_without_weights_takes_no_scale():
    (block, *_) = decoder_blocks(tiny_model("opt"))
    block.module.self_attn_layer_norm = nn.LayerNorm(32, elementwise_affine=False)
    pairs = smoothable_pairs(block)
    assert "no weight" in pairs.missing[PairKind.INPUT_NORM]
    assert PairKind.MLP_NORM in pairs.found


def test_what_no_scale_moves_between_is_told_once_with_the_number_of_blocks():
    blocks = decoder_blocks(tiny_model("llama"))
    (note,) = missing_pairs(blocks)
    assert "the values and the attention's output in 3 block(s)" in note
    assert missing_pairs(blocks, (PairKind.INPUT_NORM,)) == []
