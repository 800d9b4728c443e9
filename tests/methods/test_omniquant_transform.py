"""The learnable transformation: exact in every family, started as published, left out where it would not be exact."""

import pytest
import torch
from torch.func import functional_call

from harness.architectures.blocks import decoder_blocks
from harness.errors import Unsupported
from harness.methods.omniquant.transform import ChannelRange, EquivalentTransformation, plan_transformation, sharing
from harness.methods.skeleton.stream import open_stream
from tests.support.tiny_checkpoints import FAMILIES, tiny_model, tiny_tokens, with_exact_norms

NORM_FIRST = [family for family in FAMILIES if family != "opt-post-norm"]
BOTH_NORMS, WITH_VALUES = 2, 3


def observed(block, inputs_of=lambda group: torch.randn(2, 7, group.in_features)):
    ranges = {}
    for group in block.groups:
        ranges[group] = ChannelRange(group, torch.device("cpu"))
        inputs = inputs_of(group)
        ranges[group].add(inputs.flatten(0, 1), len(inputs))
    return ranges


def randomised(block, plan):
    """A transformation with scales of both signs and shifts far from 0."""
    transformation = EquivalentTransformation(block, plan, observed(block), alpha=0.5)
    for learned in transformation.parameters():
        learned.uniform_(0.5, 2).mul_(torch.randint(0, 2, learned.shape) * 2 - 1)
    return transformation


def substituted(block, transformation):
    transformed = transformation.apply()
    parameters = dict(transformed.replaced)
    for name, factors in transformed.factors.items():
        weight = block.module.get_submodule(name).weight
        weight = weight if factors.columns is None else weight * factors.columns
        parameters[f"{name}.weight"] = weight if factors.rows is None else weight * factors.rows.unsqueeze(1)
    return parameters


@pytest.mark.parametrize("family", NORM_FIRST)
def test_without_rounding_the_block_puts_out_what_it_did(family):
    model = with_exact_norms(tiny_model(family).double())
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    block = decoder_blocks(model)[1]
    plan = plan_transformation(block, query_key=True, shift=True)
    parameters = substituted(block, randomised(block, plan))
    stream = open_stream(model, (*decoder_blocks(model),), tiny_tokens(2, 9), batch_size=2, device=torch.device("cpu"))
    call = stream.calls[2, 9][1]
    before = block.module(stream.hidden[0], *call.arguments, **call.keywords)
    after = functional_call(block.module, parameters, (stream.hidden[0], *call.arguments), call.keywords)
    unlike = [name for name, value in parameters.items() if not torch.allclose(value, block.module.get_parameter(name))]
    assert len(unlike) >= 5
    assert torch.allclose(before, after, atol=1e-9)


@pytest.mark.parametrize(
    ("family", "pairs", "query_key", "shift"),
    [
        ("llama", BOTH_NORMS, True, False),
        ("glm4", BOTH_NORMS, True, False),
        ("qwen3", BOTH_NORMS, False, False),
        ("gemma3", BOTH_NORMS, False, False),
        ("gemma3-full", WITH_VALUES, False, False),
        ("opt", WITH_VALUES, True, True),
    ],
)
def test_only_what_is_exact_for_the_family_is_learned_and_the_rest_is_explained(family, pairs, query_key, shift):
    block = decoder_blocks(tiny_model(family))[0]
    plan = plan_transformation(block, query_key=True, shift=True)
    assert (len(plan.pairs), plan.query_key, plan.shift) == (pairs, query_key, shift)
    assert any("values" in note for note in plan.notes) == (pairs == BOTH_NORMS)
    assert any("queries" in note for note in plan.notes) == (not query_key)
    assert any("no shift" in note for note in plan.notes) == (not shift)


def test_a_norm_that_adds_1_to_its_weight_ends_as_its_linears_were_made_for_in_the_stored_dtype():
    block = decoder_blocks(tiny_model("gemma3"))[0]
    for norm in (block.input_norm, block.mlp_norm):
        norm.weight.copy_(torch.linspace(-0.99, 3, len(norm.weight)).bfloat16())
    plan = plan_transformation(block, query_key=False, shift=False)
    transformation = EquivalentTransformation(block, plan, observed(block), alpha=0.5, stored_as=torch.bfloat16)
    for learned in transformation.parameters():
        learned.uniform_(20, 200)
    transformed = transformation.apply()
    for name, reader in (("input_layernorm", "self_attn.q_proj"), ("pre_feedforward_layernorm", "mlp.up_proj")):
        stored = transformed.replaced[f"{name}.weight"].bfloat16().double()
        made_up_for = transformed.factors[reader].columns.double()
        factor = 1 + block.module.get_parameter(f"{name}.weight").double()
        torch.testing.assert_close((1 + stored) * made_up_for, factor, rtol=1e-5, atol=0)


def test_a_scale_that_is_rounded_to_what_is_stored_still_learns():
    block = decoder_blocks(tiny_model("gemma3"))[0]
    plan = plan_transformation(block, query_key=False, shift=False)
    transformation = EquivalentTransformation(block, plan, observed(block), alpha=0.5, stored_as=torch.bfloat16)
    (first, *_) = transformation.parameters()
    first.requires_grad_()
    with torch.enable_grad():
        transformation.apply().factors["self_attn.q_proj"].columns.sum().backward()
    assert torch.equal(first.grad, torch.ones_like(first))


def test_a_block_that_normalises_last_allows_no_transformation():
    block = decoder_blocks(tiny_model("opt-post-norm"))[0]
    with pytest.raises(Unsupported, match="normalises after"):
        plan_transformation(block, query_key=True, shift=False)


@pytest.mark.parametrize(
    ("family", "expected"),
    [("llama", [0, 1, 2, 3, 0, 1, 2, 3]), ("glm", [0, 0, 1, 1, 2, 3, 4, 5]), ("opt", [0, 1, 2, 3, 4, 5, 6, 7])],
)
def test_channels_that_a_rotary_embedding_turns_together_share_a_scale(family, expected):
    assert sharing(decoder_blocks(tiny_model(family))[0]).tolist() == expected


def test_scales_start_from_the_magnitudes_of_inputs_and_weights_and_shifts_from_the_middle_of_the_inputs():
    block = decoder_blocks(tiny_model("opt"))[0]
    torch.manual_seed(4)
    seen = {group: torch.randn(3, 7, group.in_features) + 1 for group in block.groups}
    plan = plan_transformation(block, query_key=False, shift=True)
    transformation = EquivalentTransformation(block, plan, observed(block, seen.get), alpha=0.75)
    learned = list(transformation.parameters())
    up = next(group for group in block.groups if group.linears[0].name.endswith("fc1"))
    linear = up.linears[0].module
    for channel in range(up.in_features):
        inputs = seen[up][..., channel]
        weights = float(linear.weight[:, channel].abs().max())
        middle = None
        for sequence in inputs:
            now = float(sequence.max() + sequence.min()) / 2
            middle = now if middle is None else 0.99 * middle + 0.01 * now
        assert float(learned[2][channel]) == pytest.approx(float(inputs.abs().max()) ** 0.75 / weights**0.25, rel=1e-5)
        assert float(learned[3][channel]) == pytest.approx(middle, rel=1e-4, abs=1e-6)


def test_scales_are_kept_away_from_zero_on_their_side_of_it():
    block = decoder_blocks(tiny_model("llama"))[0]
    transformation = randomised(block, plan_transformation(block, query_key=True, shift=False))
    learned = list(transformation.parameters())
    for scale in learned:
        scale.view(-1)[:4] = torch.tensor([0.0, 1e-4, -1e-4, 0.5])
    transformation.bound()
    for scale in learned:
        assert scale.view(-1)[:4].tolist() == pytest.approx([0.01, 0.01, -0.01, 0.5])


def test_an_input_that_is_always_zero_gives_a_finite_scale():
    block = decoder_blocks(tiny_model("llama"))[0]
    plan = plan_transformation(block, query_key=True, shift=False)
    dead = observed(block, lambda group: torch.zeros(1, 4, group.in_features))
    transformation = EquivalentTransformation(block, plan, dead, alpha=0.5)
    assert all(torch.isfinite(value).all() for value in transformation.apply().replaced.values())
