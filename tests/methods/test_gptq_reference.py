"""GPTQ against a plain transcription of Algorithm 1, one weight at a time in float64."""

import pytest
import torch
from torch import nn

from harness.architectures.blocks import LinearGroup, NamedLinear
from harness.methods.gptq.columns import Quantizer
from harness.methods.gptq.grid import GridRule
from harness.methods.numerics.hessian import Hessian, factor_inverse

DAMPING = 0.01


def rounded(value, dtype):
    return float(torch.tensor(value).to(dtype))


def grid_of(values, bits, symmetric, dtype, shrink=1.0):
    """Scale and zero that span `values` and 0."""
    low, high = min(0.0, *values), max(0.0, *values)
    if symmetric:
        high = max(high, -low)
        low = -high
    if low == high == 0:
        low, high = -1.0, 1.0
    low, high = low * shrink, high * shrink
    scale = rounded((high - low) / (2**bits - 1), dtype)
    zero = 2 ** (bits - 1) if symmetric else min(max(round(-low / scale), 0), 2**bits - 1)
    return scale, zero


def code_of(value, scale, zero, bits):
    return min(max(round(value / scale) + zero, 0), 2**bits - 1)


def searched_grid(values, bits, symmetric, dtype):
    def error(scale, zero):
        return sum(abs(scale * (code_of(value, scale, zero, bits) - zero) - value) ** 2.4 for value in values)

    tried = [grid_of(values, bits, symmetric, dtype, 1 - step / 100) for step in range(80)]
    return min(tried, key=lambda grid: error(*grid))


def reference(weight, hessian, rule, group_size, act_order, static_groups):
    """Return (codes, scales, zeros, group of each column, error); every loop is written out."""
    weight, hessian = weight.double().clone(), hessian.double().clone()
    rows, columns = weight.shape
    order = sorted(range(columns), key=lambda column: -hessian[column, column]) if act_order else list(range(columns))
    for column in range(columns):
        if hessian[column, column] == 0:
            hessian[column, column] = 1
            weight[:, column] = 0
    hessian += DAMPING * hessian.diagonal().mean() * torch.eye(columns).double()
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian[order][:, order])).T
    size = group_size or columns
    find = searched_grid if rule.search else grid_of
    grids = {}
    codes = torch.zeros(rows, columns, dtype=torch.uint8)
    group_of = torch.zeros(columns, dtype=torch.int32)
    error = 0.0
    if static_groups or not group_size:
        for start in range(0, columns, size):
            for row in range(rows):
                values = weight[row, start : start + size].tolist()
                grids[row, start // size] = find(values, rule.bits, rule.symmetric, rule.scale_dtype)
    for place, column in enumerate(order):
        group = (column if static_groups or not group_size else place) // size
        group_of[column] = group
        for row in range(rows):
            if (row, group) not in grids:
                values = weight[row, order[place : place + size]].tolist()
                grids[row, group] = find(values, rule.bits, rule.symmetric, rule.scale_dtype)
            scale, zero = grids[row, group]
            value = float(weight[row, column])
            codes[row, column] = code_of(value, scale, zero, rule.bits)
            scaled = (value - scale * (int(codes[row, column]) - zero)) / float(factor[place, place])
            weight[row, order[place:]] -= scaled * factor[place, place:]
            error += scaled**2 / 2
    count = columns // size
    scales = torch.tensor([[grids[row, group][0] for group in range(count)] for row in range(rows)])
    zeros = torch.tensor([[grids[row, group][1] for group in range(count)] for row in range(rows)])
    return codes, scales, zeros, group_of, error


def make_group(heights, columns):
    torch.manual_seed(0)
    linears = [nn.Linear(columns, height, bias=False).requires_grad_(requires_grad=False) for height in heights]
    return LinearGroup(tuple(NamedLinear(f"block.part{index}", linear) for index, linear in enumerate(linears)))


def observed(group, tokens, dead=()):
    torch.manual_seed(1)
    columns = group.in_features
    inputs = torch.randn(tokens, columns // 2) @ torch.randn(columns // 2, columns) + 0.5 * torch.randn(tokens, columns)
    inputs[:, list(dead)] = 0
    hessian = Hessian(group, torch.device("cpu"))
    hessian.add(inputs, sequences=1)
    return hessian.matrix


def quantize(group, hessian, rule, group_size, *, act_order=False, static_groups=False, blocksize=128):
    order = hessian.diagonal().argsort(descending=True, stable=True) if act_order else None
    ordered = hessian if order is None else hessian[order][:, order]
    factor = factor_inverse(group, ordered, DAMPING)
    quantizer = Quantizer(rule, group_size, static_groups=static_groups, blocksize=blocksize, log=pytest.fail)
    return quantizer.quantize([linear.module.weight for linear in group.linears], factor, order)


def rule_of(bits=4, symmetric=False, search=False, scale_dtype=torch.bfloat16):
    return GridRule(bits=bits, symmetric=symmetric, search=search, scale_dtype=scale_dtype)


CASES = {
    "whole rows": ({}, {}),
    "2 bits": ({"bits": 2}, {}),
    "3 bits, symmetric": ({"bits": 3, "symmetric": True}, {}),
    "8 bits": ({"bits": 8}, {}),
    "8 bits, symmetric, groups": ({"bits": 8, "symmetric": True}, {"group_size": 32}),
    "float16 scales": ({"scale_dtype": torch.float16}, {"group_size": 16}),
    "float32 scales": ({"scale_dtype": torch.float32}, {}),
    "groups within blocks": ({}, {"group_size": 16, "blocksize": 32}),
    "groups that cross blocks": ({}, {"group_size": 24, "blocksize": 16}),
    "groups of several blocks": ({}, {"group_size": 48, "blocksize": 16}),
    "one column a group": ({}, {"group_size": 1}),
    "one column a block": ({}, {"blocksize": 1}),
    "order": ({}, {"act_order": True}),
    "order, groups": ({}, {"act_order": True, "group_size": 16, "blocksize": 32}),
    "order, static groups": ({}, {"act_order": True, "group_size": 16, "static_groups": True, "blocksize": 32}),
    "static groups": ({"symmetric": True}, {"group_size": 24, "static_groups": True}),
    "search": ({"search": True}, {}),
    "search, symmetric groups": ({"search": True, "symmetric": True, "bits": 3}, {"group_size": 32}),
}


@pytest.mark.parametrize("dead", [(), (0, 3, 4, 70, 95)], ids=["all inputs live", "dead inputs"])
@pytest.mark.parametrize("case", CASES)
def test_quantizing_follows_the_published_algorithm(case, dead):
    rule, layout = rule_of(**CASES[case][0]), CASES[case][1]
    group = make_group([5, 3], 96)
    hessian = observed(group, 400, dead)
    results = quantize(group, hessian, rule, **({"group_size": 0} | layout))
    for linear, result in zip(group.linears, results, strict=True):
        codes, scales, zeros, group_of, error = reference(
            linear.module.weight,
            hessian,
            rule,
            layout.get("group_size", 0),
            layout.get("act_order", False),
            layout.get("static_groups", False),
        )
        made = result.weight
        assert (made.bits, made.symmetric, made.scale.dtype) == (rule.bits, rule.symmetric, rule.scale_dtype)
        assert torch.allclose(made.scale.float(), scales, rtol=1e-6 if rule.scale_dtype != torch.float32 else 1e-4)
        assert torch.equal(made.zero, zeros.to(torch.uint8))
        assert torch.equal(made.codes, codes)
        assert float(result.error) == pytest.approx(error, rel=1e-3)
        if case == "order, groups":
            assert torch.equal(made.group_of, group_of)
        else:
            assert made.group_of is None


def test_the_blocksize_changes_nothing():
    group = make_group([6], 200)
    hessian = observed(group, 600)
    one, other = (quantize(group, hessian, rule_of(), 40, blocksize=size)[0].weight for size in (128, 7))
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.scale, other.scale)


def test_a_row_of_zeros_stays_zero():
    for symmetric in (False, True):
        group = make_group([4], 32)
        group.linears[0].module.weight[2] = 0
        (result,) = quantize(group, observed(group, 100), rule_of(symmetric=symmetric), 16)
        values = result.weight.dequantize(torch.float32)
        assert not values[2].any()
        assert values[[0, 1, 3]].abs().sum(dim=1).all()


def test_rows_of_one_sign_use_the_whole_range_of_codes():
    """The symmetric grid of the authors' code halves the range of a row without negative weights."""
    group = make_group([3], 64)
    weight = group.linears[0].module.weight
    weight.abs_()
    (result,) = quantize(group, observed(group, 200), rule_of(symmetric=True, scale_dtype=torch.float32), 0)
    assert torch.allclose(result.weight.scale[:, 0], 2 * weight.amax(dim=1) / 15)


def test_weights_too_small_for_the_scales_dtype_stay_finite():
    group = make_group([2], 32)
    group.linears[0].module.weight.mul_(1e-7)
    (result,) = quantize(group, observed(group, 100), rule_of(scale_dtype=torch.float16), 0)
    assert torch.isfinite(result.weight.dequantize(torch.float32)).all()


def test_compensation_reconstructs_the_output_better_than_rounding():
    group = make_group([32], 96)
    (linear,) = group.linears
    hessian = observed(group, 400)
    (result,) = quantize(group, hessian, rule_of(bits=3), 0)
    rounded_only = quantize(group, torch.eye(96), rule_of(bits=3), 0)[0].weight.dequantize(torch.float32)
    losses = [
        float(torch.einsum("ri,ij,rj->", change, hessian, change))
        for change in (
            result.weight.dequantize(torch.float32) - linear.module.weight,
            rounded_only - linear.module.weight,
        )
    ]
    assert losses[0] < 0.7 * losses[1]


def test_the_order_by_activations_and_the_search_lower_the_loss_that_they_are_for():
    group = make_group([48], 96)
    (linear,) = group.linears
    scaling = torch.logspace(0, 2, 96)[torch.randperm(96)]
    hessian = observed(group, 400) * scaling * scaling.unsqueeze(1)
    plain, ordered = (quantize(group, hessian, rule_of(bits=3), 0, act_order=flag)[0] for flag in (False, True))
    changes = [one.weight.dequantize(torch.float32) - linear.module.weight for one in (plain, ordered)]
    losses = [float(torch.einsum("ri,ij,rj->", change, hessian, change)) for change in changes]
    assert losses[1] < losses[0]
    heavy_tailed = linear.module.weight.T.unsqueeze(0) ** 3
    spans, found = (rule_of(bits=3, search=flag) for flag in (False, True))
    errors = [float(rule.error(heavy_tailed, rule.fit(heavy_tailed)).sum()) for rule in (spans, found)]
    assert errors[1] < errors[0]
