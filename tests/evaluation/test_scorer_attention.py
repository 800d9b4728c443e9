"""Attention over a trunk and over a row's own tokens, joined, is attention over both."""

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.evaluation.prepared import TokenRequest
from harness.evaluation.scorer import Scorer, attention
from tests.evaluation.scorer_reference import assert_answers_equal, load_small, silent, tokens
from tests.support.small_checkpoints import small_model


def _both_at_once(query: Tensor, keys: list[Tensor], values: list[Tensor], mask: Tensor, scaling: float) -> Tensor:
    """In float64, by the definition; `keys` and `values` are the trunk's and the rows' own."""
    rows, heads = query.shape[:2]
    key, value = (
        torch.cat([states.expand(rows, -1, -1, -1) for states in both], dim=2).double() for both in (keys, values)
    )
    groups = heads // key.shape[1]
    scores = query.double() @ key.repeat_interleave(groups, dim=1).transpose(-1, -2) * scaling
    seen = torch.nn.functional.pad(mask.double(), (keys[0].shape[2], 0))
    found: Tensor = torch.softmax(scores + seen, dim=-1) @ value.repeat_interleave(groups, dim=1)
    return found.transpose(1, 2)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_the_two_parts_together_are_attention_over_all_keys(
    heads: int, key_heads: int, dtype: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(rows: int, heads: int, length: int) -> Tensor:
        return torch.randn(rows, length, heads, 16, generator=generator).to(dtype).transpose(1, 2)

    query, key, value = draw(3, heads, 10), draw(3, key_heads, 10), draw(3, key_heads, 10)
    trunk = draw(1, key_heads, 37), draw(1, key_heads, 37)
    hidden = torch.triu(torch.ones(10, 10, dtype=torch.bool), 1).expand(3, 1, 10, 10).clone()
    hidden[1, :, 6:, :4] = True
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)
    found, _ = attention.attend_after_trunk(
        SimpleNamespace(layer_idx=1), query, key, value, mask, 0.3, trunk=[(key[:1], value[:1]), trunk]
    )
    expected = _both_at_once(query, [trunk[0], key], [trunk[1], value], mask, 0.3)
    assert (found - expected).norm() <= tolerance * expected.norm()


def _questions_after_a_preamble() -> list[TokenRequest]:
    random = Random(1)
    preamble = tokens(random, 60)
    return [TokenRequest(preamble + tokens(random, 30), tokens(random, 3)) for _ in range(24)]


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_trunk_is_attended_to_by_itself(family: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_small(tmp_path / family, small_model(family))
    before = loaded.model.config._attn_implementation
    asked: list[int] = []
    own = attention.attend

    def counted(query: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        asked.append(query.shape[0])
        return own(query, *others)

    monkeypatch.setattr(attention, "attend", counted)
    requests = _questions_after_a_preamble()
    answers = dict(Scorer(loaded, token_budget=400, report=silent).score(requests))
    assert asked, "no trunk was attended to"
    assert loaded.model.config._attn_implementation == before
    assert_answers_equal(loaded, requests, answers)


def test_heads_that_the_kernels_do_not_take_are_known() -> None:
    assert not attention.fits_kernels(20)
    assert not attention.fits_kernels(512)
    assert attention.fits_kernels(64)
