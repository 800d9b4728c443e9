"""Wanda against a plain transcription of its definition, one weight at a time in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.architectures.blocks import LinearGroup, NamedLinear
from harness.methods import wanda
from harness.methods.numerics.masks import smallest_by_sorting, smallest_of_columns, smallest_of_rows, up_to_rank
from harness.methods.wanda import InputNorm, choose_by_share, prune


def reference(weight, norm, target):
    """Which weights go, by the definition: every loop is written out."""
    rows, columns = weight.shape
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    length = columns if isinstance(target, float) else target[1]
    zeros = int(columns * target) if isinstance(target, float) else target[0]
    for row in range(rows):
        for start in range(0, columns, length):
            places = range(start, start + length)
            ranked = sorted(places, key=lambda column, row=row: abs(float(weight[row, column])) * float(norm[column]))
            mask[row, ranked[:zeros]] = True
    return mask


@pytest.mark.parametrize("target", [0.5, 0.3, 0.9, 0.001, (2, 4), (4, 8), (1, 4), (3, 5), (7, 20)], ids=str)
def test_pruning_follows_the_definition(target):
    torch.manual_seed(0)
    weight, norm = torch.randn(13, 40), torch.rand(40)
    weight[:, 3] = 0
    weight[5] = 0
    norm[7] = 0
    expected = torch.where(reference(weight, norm, target), 0, weight)
    pruned = weight.clone()
    prune(pruned, norm, target)
    assert torch.equal(pruned, expected)


def test_of_equal_scores_the_first_go():
    weight = torch.tensor([[1.0, -1.0, 1.0, 2.0, 1.0, 0.5], [3.0, 3.0, 3.0, 3.0, 3.0, 3.0]])
    prune(weight, torch.ones(6), 0.5)
    assert weight.tolist() == [[0, 0, 1, 2, 1, 0], [0, 0, 0, 3, 3, 3]]


def test_a_matrix_that_is_scored_in_chunks_is_pruned_alike(monkeypatch):
    weight, norm = torch.randn(30, 16), torch.rand(16)
    whole, chunked = weight.clone(), weight.clone()
    prune(whole, norm, 0.5)
    monkeypatch.setattr(wanda, "_CHUNK_WEIGHTS", 5 * 16)
    prune(chunked, norm, 0.5)
    assert torch.equal(whole, chunked)


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=5), st.integers(0, 6))
def test_the_quick_choices_are_those_of_a_stable_sort(values, count):
    scores = torch.tensor(values, dtype=torch.float32)
    assert torch.equal(smallest_of_rows(scores, count), smallest_by_sorting(scores, count, dim=1))
    columns = scores.T.contiguous()
    assert torch.equal(smallest_of_columns(columns, count), smallest_by_sorting(columns, count, dim=0))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_up_to_a_rank_are_all_scores_not_above_it(values, data):
    rank = data.draw(st.integers(0, len(values) - 1))
    mask = up_to_rank(torch.tensor([values], dtype=torch.float32), rank)
    assert mask[0].tolist() == [value <= sorted(values)[rank] for value in values]


def lost_at(weight, norm, share):
    """The variant's mask for one share, row by row."""
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    for row in range(len(weight)):
        scores = [abs(float(value)) * float(scale) for value, scale in zip(weight[row], norm, strict=True)]
        total = 0.0
        for column in sorted(range(len(scores)), key=scores.__getitem__):
            total += scores[column]
            if total > share * sum(scores):
                break
            mask[row, column] = True
    return mask


def variant_reference(weight, norm, ratio):
    """The authors' bisection."""
    below, share, above = 0.0, 0.4, 0.8
    mask = lost_at(weight, norm, share)
    while abs(float(mask.float().mean()) - ratio) > 0.001 and above - below >= 0.001:
        if float(mask.float().mean()) > ratio:
            above = share
        else:
            below = share
        share = (below + above) / 2
        mask = lost_at(weight, norm, share)
    return mask


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
def test_the_variant_finds_the_share_by_bisection(ratio):
    torch.manual_seed(0)
    weight, norm = torch.randn(40, 60), torch.rand(60)
    expected = variant_reference(weight, norm, ratio)
    assert torch.equal(choose_by_share(weight.abs() * norm, ratio), expected)
    pruned = weight.clone()
    prune(pruned, norm, ratio, variant=True)
    assert torch.equal(pruned == 0, expected)
    assert float(expected.float().mean()) == pytest.approx(ratio, abs=0.01)
    assert len(set(expected.sum(dim=1).tolist())) > 1, "the rows of the variant differ in their ratios"


def test_the_variant_leaves_a_row_whose_smallest_score_is_already_too_large():
    scores = torch.tensor([[5.0, 5.0], [0.1, 9.9]])
    assert choose_by_share(scores, 0.25).tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_statistic_is_the_mean_over_sequences_however_they_are_batched(dtype):
    group = LinearGroup((NamedLinear("linear", nn.Linear(10, 4)),))
    inputs = torch.randn(6, 7, 10).to(dtype)
    one_by_one, together = (InputNorm(group, torch.device("cpu")) for _ in range(2))
    for sequence in inputs:
        one_by_one.add(sequence, sequences=1)
    together.add(inputs[:4].reshape(-1, 10), sequences=4)
    together.add(inputs[4:].reshape(-1, 10), sequences=2)
    expected = sum(sequence.double().square().sum(0) for sequence in inputs) / 6
    assert torch.allclose(one_by_one.mean_square.double(), expected, rtol=1e-5)
    assert torch.allclose(together.mean_square.double(), expected, rtol=1e-5)
