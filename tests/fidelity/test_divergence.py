"""The divergence of two distributions: exact, never negative, 0 of a distribution from itself."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.contract.divergence import divergence_metrics, rank
from harness.contract.items import FidelityItem
from harness.evaluation.deployed import Likeliest
from harness.fidelity.divergence import Compared, compare, compare_likeliest, compare_logits


def logits(seed: int, rows: int, vocabulary: int, scale: float = 4.0) -> Tensor:
    return scale * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def exact(dense: Tensor, other: Tensor) -> Tensor:
    log_p, log_q = (torch.log_softmax(one.double(), dim=-1) for one in (dense, other))
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


@pytest.mark.parametrize("distance", [1e-4, 1e-2, 1.0, 100.0])
def test_it_is_that_of_a_plain_sum_in_double_precision(distance: float) -> None:
    dense = logits(0, 40, 5000)
    other = dense + distance * logits(1, 40, 5000, scale=1.0)
    targets = torch.arange(40)
    found = compare_logits(dense, other, targets)
    torch.testing.assert_close(found.divergences, exact(dense, other), rtol=2e-3, atol=1e-12)
    log_p, log_q = (torch.log_softmax(one.double(), dim=-1) for one in (dense, other))
    assert found.same_top.tolist() == (log_p.argmax(-1) == log_q.argmax(-1)).tolist()
    torch.testing.assert_close(found.dense_right.double(), log_p[targets, targets], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.right.double(), log_q[targets, targets], rtol=1e-6, atol=1e-5)


def test_a_distribution_has_none_from_itself() -> None:
    dense = logits(0, 40, 5000, scale=20.0)
    found = compare_logits(dense, dense.clone(), torch.zeros(40, dtype=torch.int64))
    assert found.divergences.tolist() == [0.0] * 40
    assert found.same_top.all()


@pytest.mark.parametrize("shift", [50.0, 90.0, 150.0, 5000.0])
@pytest.mark.parametrize("certain", [0, 1])
def test_what_one_of_them_finds_impossible_does_not_overflow(shift: float, certain: int) -> None:
    """Dense is certain of token 0; the other as certain of it, or of another one."""
    dense, other = torch.zeros(1, 8), torch.zeros(1, 8)
    dense[0, 0], other[0, certain] = shift, shift
    found = compare_logits(dense, other, torch.tensor([0]))
    torch.testing.assert_close(found.divergences, exact(dense, other), rtol=1e-5, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-200, 200, width=32), min_size=2, max_size=9),
    st.lists(st.floats(-200, 200, width=32), min_size=9, max_size=9),
)
def test_it_is_never_negative_and_near_the_exact_one(dense: list[float], other: list[float]) -> None:
    ours, theirs = torch.tensor([dense]), torch.tensor([other[: len(dense)]])
    (found,) = compare_logits(ours, theirs, torch.tensor([0])).divergences.tolist()
    assert found >= 0
    assert found == pytest.approx(float(exact(ours, theirs)), rel=1e-3, abs=1e-4)


def test_a_shift_of_all_logits_changes_nothing_to_speak_of() -> None:
    dense = logits(0, 20, 5000)
    found = compare_logits(dense, dense + 3.0, torch.zeros(20, dtype=torch.int64))
    assert 0 <= float(found.divergences.max()) < 1e-10


@pytest.mark.parametrize("rows", [1, 7, 16, 1000])
def test_pieces_of_any_size_give_the_same(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    heads = [torch.nn.Linear(12, 300, bias=False, dtype=torch.float64) for _ in range(2)]
    for head in heads:
        head.weight = torch.nn.Parameter(torch.randn(300, 12, generator=generator, dtype=torch.float64))
    dense, other = (torch.randn(50, 12, generator=generator, dtype=torch.float64) for _ in range(2))
    sides = (dense, heads[0]), (other, heads[1])
    targets = torch.arange(50)
    found = compare(*sides, targets, vocabulary=300, rows=rows)
    whole = compare(*sides, targets, vocabulary=300)
    torch.testing.assert_close(found.divergences, whole.divergences, rtol=1e-6, atol=0)
    assert found.same_top.tolist() == whole.same_top.tolist()
    torch.testing.assert_close(found.right, whole.right, rtol=1e-6, atol=1e-6)


def item(index: int, divergences: list[float] | None, **sums: float) -> FidelityItem:
    tokens = 1 if divergences is None else len(divergences)
    return FidelityItem(index=index, tokens=tokens, divergences=divergences, **sums)


def test_metrics_are_those_of_all_tokens_together() -> None:
    one = {"same_top": 1, "right_probability": 0.5, "dense_right_probability": 0.7, "squared_change": 0.02, "nats": 4.0}
    two = {"same_top": 2, "right_probability": 0.3, "dense_right_probability": 0.7, "squared_change": 0.08, "nats": 8.0}
    items = [item(0, [0.1, 0.4], **one), item(1, [0.2, 0.3], **two), item(2, None)]
    found = divergence_metrics(items)
    assert found["kl_mean"] == pytest.approx(0.25)
    assert (found["kl_median"], found["kl_p90"], found["kl_max"]) == (0.2, 0.4, 0.4)
    assert found["same_top"] == 0.75
    assert found["right_probability_change"] == pytest.approx(-0.15)
    assert found["right_probability_change_rms"] == pytest.approx(math.sqrt(0.1 / 4))
    assert found["nats_per_token"] == 3.0
    assert divergence_metrics([item(0, None)]) == {}


@given(st.integers(1, 5000), st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_a_quantile_is_the_least_value_that_the_share_does_not_exceed(count: int, share: float) -> None:
    place = rank(share, count)
    assert (place + 1) / count >= share - 1e-9
    assert place / count < share


def test_an_item_that_contradicts_itself_is_none() -> None:
    with pytest.raises(ValueError, match="2 divergences of 3 tokens"):
        FidelityItem(index=0, tokens=3, divergences=(0.1, 0.2))
    with pytest.raises(ValueError, match="same_top is 4, of 3 tokens"):
        FidelityItem(index=0, tokens=3, divergences=(0.1, 0.2, 0.0), same_top=4)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        FidelityItem(index=0, tokens=1, divergences=(-0.1,))


def top_of(logits: Tensor, count: int, targets: Tensor) -> Likeliest:
    """The `count` likeliest of each row and the right one, as an engine tells them; a shorter row is filled up."""
    log_q = torch.log_softmax(logits.double(), dim=-1)
    rows = [
        list(dict.fromkeys([int(right), *row.tolist()]))
        for right, row in zip(targets, log_q.topk(count).indices, strict=True)
    ]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    is_known = torch.tensor([[place < len(row) for place in range(width)] for row in rows])
    return Likeliest(tokens, log_q.gather(-1, tokens).masked_fill(~is_known, -math.inf))


def held(dense: Tensor, known: Likeliest, targets: Tensor) -> Compared:
    return compare_likeliest((dense, lambda one: one), known, targets, vocabulary=dense.shape[1])


@pytest.mark.parametrize("count", [1, 5, 20])
@pytest.mark.parametrize("distance", [1e-2, 1.0, 10.0])
def test_of_the_likeliest_tokens_it_is_that_of_them_and_the_rest(count: int, distance: float) -> None:
    dense = logits(0, 40, 500)
    other = dense + distance * logits(1, 40, 500, scale=1.0)
    targets = torch.arange(40)
    known = top_of(other, count, targets)
    found = held(dense, known, targets)
    log_p, log_q = (torch.log_softmax(one.double(), dim=-1) for one in (dense, other))
    for row in range(40):
        tokens = known.tokens[row][torch.isfinite(known.log_likelihoods[row])]
        p, q = log_p[row, tokens].exp(), log_q[row, tokens].exp()
        rest = (1 - p.sum())[None], (1 - q.sum())[None].clamp(min=2**-20)
        joined = torch.log(torch.stack([torch.cat(one) for one in ((p, rest[0]), (q, rest[1]))]))
        exact_one = float((joined[0].exp() * (joined[0] - joined[1])).sum())
        assert float(found.divergences[row]) == pytest.approx(exact_one, rel=1e-4, abs=1e-7)
    whole = compare_logits(dense, other, targets)
    assert (found.divergences <= whole.divergences + 1e-7).all()
    assert found.same_top.tolist() == whole.same_top.tolist()
    torch.testing.assert_close(found.right, whole.right, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.dense_right, whole.dense_right, rtol=1e-5, atol=1e-5)


def test_of_all_tokens_it_is_the_whole_one() -> None:
    dense, other, targets = logits(0, 30, 9), logits(1, 30, 9), torch.arange(30) % 9
    found = held(dense, top_of(other, 9, targets), targets)
    torch.testing.assert_close(found.divergences, exact(dense, other), rtol=1e-4, atol=1e-9)


def test_likeliest_tokens_of_dense_itself_are_at_no_distance_to_speak_of() -> None:
    dense, targets = logits(0, 40, 5000, scale=2.0), torch.arange(40)
    found = held(dense, top_of(dense, 20, targets), targets)
    assert 0 <= float(found.divergences.max()) < 1e-9
    assert found.same_top.all()


def test_a_right_token_without_a_finite_likelihood_is_none() -> None:
    dense, targets = logits(0, 2, 9), torch.tensor([3, 4])
    known = Likeliest(torch.tensor([[3], [4]]), torch.tensor([[-1.0], [math.nan]], dtype=torch.float64))
    assert torch.isfinite(held(dense, known, targets).right).tolist() == [True, False]
