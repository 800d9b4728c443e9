"""SparseGPT against a plain transcription of the paper's Algorithm 1, one weight at a time in float64."""

import pytest
import torch
from torch import nn

from harness.architectures.blocks import LinearGroup, NamedLinear
from harness.errors import BadCheckpoint
from harness.methods.numerics.hessian import Hessian, factor_inverse
from harness.methods.sparsegpt import Pruner

DAMPING = 0.01


def reference(weight, hessian, target, blocksize):
    """Return (weight, mask, error); every loop is written out, and nothing is shared with the harness."""
    weight, hessian = weight.double().clone(), hessian.double().clone()
    rows, columns = weight.shape
    for column in range(columns):
        if hessian[column, column] == 0:
            hessian[column, column] = 1
            weight[:, column] = 0
    hessian += DAMPING * sum(hessian[i, i] for i in range(columns)) / columns * torch.eye(columns).double()
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian)).T
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    error = 0.0
    for column in range(columns):
        if isinstance(target, float) and column % blocksize == 0:
            last = min(column + blocksize, columns)
            mark_up_to_threshold(weight, factor, mask, range(column, last), target)
        if not isinstance(target, float) and column % target[1] == 0:
            mark_smallest_of_each_row(weight, factor, mask, range(column, column + target[1]), target[0])
        for row in range(rows):
            if mask[row, column]:
                scaled = weight[row, column] / factor[column, column]
                weight[row, column:] -= scaled * factor[column, column:]
                weight[row, column] = 0
                error += float(scaled) ** 2 / 2
    return weight, mask, error


def score(weight, factor, row, column):
    return float((weight[row, column] / factor[column, column]) ** 2)


def mark_up_to_threshold(weight, factor, mask, columns, ratio):
    places = [(row, column) for row in range(len(weight)) for column in columns]
    ranked = sorted(score(weight, factor, *place) for place in places)
    for place in places:
        mask[place] = score(weight, factor, *place) <= ranked[int(len(ranked) * ratio)]


def mark_smallest_of_each_row(weight, factor, mask, columns, zeros):
    for row in range(len(weight)):
        ranked = sorted(columns, key=lambda column, row=row: score(weight, factor, row, column))
        mask[row, ranked[:zeros]] = True


def prune(weights, factor, target, blocksize):
    return Pruner(target, blocksize, log=pytest.fail).prune(weights, factor)


def make_group(heights, columns, seed=0):
    torch.manual_seed(seed)
    linears = [nn.Linear(columns, height, bias=False).requires_grad_(requires_grad=False) for height in heights]
    return LinearGroup(tuple(NamedLinear(f"block.part{index}", linear) for index, linear in enumerate(linears)))


def correlated_inputs(tokens, columns, dead=()):
    torch.manual_seed(1)
    inputs = torch.randn(tokens, columns // 2) @ torch.randn(columns // 2, columns) + 0.5 * torch.randn(tokens, columns)
    inputs[:, list(dead)] = 0
    return inputs


def observed(group, inputs):
    hessian = Hessian(group, torch.device("cpu"))
    hessian.add(inputs, sequences=1)
    return hessian.matrix


@pytest.mark.parametrize("target", [0.5, 0.3, 0.9, (2, 4), (4, 8), (1, 4)], ids=str)
@pytest.mark.parametrize(
    ("columns", "blocksize", "dead"),
    [(64, 128, ()), (200, 128, ()), (200, 64, (0, 3, 4, 150)), (72, 8, (71,))],
    ids=["one block", "uneven blocks", "dead inputs", "many blocks"],
)
def test_pruning_follows_the_published_algorithm(target, columns, blocksize, dead):
    group = make_group([12, 5], columns)
    weights = [linear.module.weight for linear in group.linears]
    hessian = observed(group, correlated_inputs(3 * columns, columns, dead))
    results = prune(weights, factor_inverse(group, hessian, DAMPING), target, blocksize)
    for weight, result in zip(weights, results, strict=True):
        expected, mask, error = reference(weight, hessian, target, blocksize)
        mask[:, list(dead)] = True
        assert torch.equal(result.weight == 0, mask)
        assert torch.allclose(result.weight.double(), expected, atol=1e-4, rtol=1e-3)
        assert float(result.error) == pytest.approx(error, rel=1e-3)


def test_the_hessian_is_the_mean_over_sequences_however_they_are_batched():
    group = make_group([4], 10)
    inputs = torch.randn(6, 7, 10)
    one_by_one = Hessian(group, torch.device("cpu"))
    for sequence in inputs:
        one_by_one.add(sequence, sequences=1)
    together = Hessian(group, torch.device("cpu"))
    together.add(inputs[:4].reshape(-1, 10), sequences=4)
    together.add(inputs[4:].reshape(-1, 10), sequences=2)
    expected = 2 / 6 * sum(sequence.double().T @ sequence.double() for sequence in inputs)
    assert torch.allclose(one_by_one.matrix.double(), expected, atol=1e-5)
    assert torch.allclose(together.matrix.double(), expected, atol=1e-5)


def test_a_hessian_that_is_not_positive_definite_is_damped_more_until_it_is():
    group = make_group([4], 3)
    hessian = torch.tensor([[1.0, 1.2, 0.0], [1.2, 1.0, 0.0], [0.0, 0.0, 1.0]])
    factor = factor_inverse(group, hessian, DAMPING)
    assert factor.damping == 1.0
    damped = hessian + torch.eye(3)
    upper = factor.diagonal.unsqueeze(1) * factor.unit
    assert torch.allclose(upper.T @ upper @ damped, torch.eye(3), atol=1e-5)


def test_pruning_reconstructs_the_output_better_than_magnitude():
    group = make_group([32], 96)
    (linear,) = group.linears
    inputs = correlated_inputs(400, 96)
    factor = factor_inverse(group, observed(group, inputs), DAMPING)
    dense = inputs @ linear.module.weight.T
    for target in (0.5, (2, 4)):
        (result,) = prune([linear.module.weight], factor, target, 128)
        by_magnitude = magnitude(linear.module.weight, target)
        assert squared_error(inputs, result.weight, dense) < squared_error(inputs, by_magnitude, dense)


def squared_error(inputs, weight, dense):
    return float((inputs @ weight.T - dense).square().sum())


def magnitude(weight, target):
    if isinstance(target, float):
        return torch.where(weight.abs() <= weight.abs().quantile(target), 0, weight)
    grouped = weight.reshape(-1, target[1])
    smallest = grouped.abs().topk(target[0], dim=1, largest=False).indices
    return grouped.scatter(1, smallest, 0).reshape(weight.shape)


def test_inputs_that_are_not_finite_are_named():
    group = make_group([4], 8)
    inputs = torch.ones(5, 8)
    inputs[2, 3] = float("nan")
    with pytest.raises(BadCheckpoint, match=r"block\.part0"):
        factor_inverse(group, observed(group, inputs), DAMPING)
