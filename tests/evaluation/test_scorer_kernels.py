"""Norms and rotations that replace a model's own do the same, and stay out where they do not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama

from harness.evaluation.scorer.norms import fuse_norms
from harness.evaluation.scorer.rotary import Rotary, rotate_in_one_pass
from tests.support.small_checkpoints import small_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where Triton's kernels run: on a GPU, or in its interpreter on a CPU."""
ROUNDINGS = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


class GainFromOneRMSNorm(nn.Module):
    """As some families define it: the weight is what is added to a gain of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(32))
        self.variance_epsilon = 1e-6

    def forward(self, states: Tensor) -> Tensor:
        scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return states * scale * (1 + self.weight)


@pytest.mark.parametrize("dtype", ROUNDINGS)
def test_a_models_norms_are_replaced_and_its_output_is_as_before(dtype: torch.dtype) -> None:
    model: Any = small_model("llama").to(dtype).eval()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        before = model(tokens).logits.float()
        replaced = fuse_norms(model)
        after = model(tokens).logits.float()
    assert replaced == 2 * model.config.num_hidden_layers + 1
    assert (after - before).norm() <= ROUNDINGS[dtype] * before.norm()


def test_a_norm_of_another_definition_is_left_alone() -> None:
    assert fuse_norms(GainFromOneRMSNorm()) == 0


@pytest.mark.parametrize("dtype", ROUNDINGS)
@pytest.mark.parametrize(("heads", "key_heads", "size", "rows"), [(3, 1, 16, 2), (5, 5, 24, 1)])
def test_one_pass_rotates_as_the_model_does(
    dtype: torch.dtype, heads: int, key_heads: int, size: int, rows: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 7, heads, size, generator=generator).to(DEVICE, dtype).transpose(1, 2)
    key = torch.randn(2, 7, key_heads, size, generator=generator).to(DEVICE, dtype).transpose(1, 2)
    angles = (torch.rand(rows, 7, size, generator=generator) * 6).to(DEVICE)
    cosines, sines = angles.cos().to(dtype), angles.sin().to(dtype)
    expected = modeling_llama.apply_rotary_pos_emb(query.float(), key.float(), cosines.float(), sines.float())
    for found, wanted in zip(rotate_in_one_pass(query, key, cosines, sines), expected, strict=True):
        assert found.shape == wanted.shape
        assert (found.float() - wanted).norm() <= ROUNDINGS[dtype] * wanted.norm()


def test_the_models_rotation_is_replaced_only_while_it_runs_there() -> None:
    model: Any = small_model("llama").to(DEVICE).eval()
    rotary = Rotary(model, model.config.head_dim)
    own = modeling_llama.apply_rotary_pos_emb
    assert rotary.used
    tokens = torch.arange(20, device=DEVICE)[None]
    with torch.no_grad():
        before = model(tokens).logits
        with rotary.replaced():
            assert modeling_llama.apply_rotary_pos_emb is rotate_in_one_pass
            after = model(tokens).logits
    assert modeling_llama.apply_rotary_pos_emb is own
    assert (after - before).norm() <= 1e-5 * before.norm()


def test_a_rotation_of_neighbouring_elements_is_left_to_the_model() -> None:
    config = modeling_glm.GlmConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        pad_token_id=0,
    )
    assert not Rotary(modeling_glm.GlmForCausalLM(config), 16).used


def test_a_model_without_rotations_keeps_its_own() -> None:
    model: Any = small_model("opt")
    rotary = Rotary(model, 16)
    assert not rotary.used
    with rotary.replaced(), torch.no_grad():
        assert torch.isfinite(model(torch.arange(5)[None]).logits).all()


def test_a_rotation_of_a_part_of_each_head_is_left_to_the_model() -> None:
    model: Any = small_model("llama")
    model.config.rope_parameters["partial_rotary_factor"] = 0.5
    assert not Rotary(model, model.config.head_dim).used
    with pytest.raises(ValueError, match="angles for 8 elements of heads of 16"):
        rotate_in_one_pass(*(torch.zeros(1, 1, 3, 16),) * 2, *(torch.zeros(1, 3, 8),) * 2)
