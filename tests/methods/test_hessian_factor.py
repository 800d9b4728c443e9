import pytest
import torch
from torch import nn

from harness.architectures.blocks import LinearGroup, NamedLinear
from harness.methods.numerics.hessian import Hessian, factor_inverse

CPU = torch.device("cpu")


def group_of(columns):
    return LinearGroup((NamedLinear("block.linear", nn.Linear(columns, 2)),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [1, 3, 5, 64, 130])
def test_the_whole_symmetric_matrix_is_made_from_its_panels(columns, dtype):
    inputs = torch.randn(3, 20, columns).to(dtype)
    hessian = Hessian(group_of(columns), CPU)
    for sequence in inputs:
        hessian.add(sequence, sequences=1)
    exact = inputs.double()
    expected = 2 / 3 * torch.einsum("sti,stj->ij", exact, exact)
    assert hessian.matrix.dtype == torch.float32
    assert torch.allclose(hessian.matrix.double(), expected, atol=1e-5 * float(expected.abs().max()))


def test_reading_the_matrix_does_not_disturb_what_is_added_later():
    inputs = torch.randn(2, 20, 9)
    read_early, read_late = Hessian(group_of(9), CPU), Hessian(group_of(9), CPU)
    for hessian in (read_early, read_late):
        hessian.add(inputs[0], sequences=1)
        if hessian is read_early:
            assert hessian.matrix.shape == (9, 9)
        hessian.add(inputs[1], sequences=1)
    assert torch.equal(read_early.matrix, read_late.matrix)


@pytest.mark.parametrize("columns", [1, 2, 127, 128, 129, 300])
def test_the_factor_is_the_upper_cholesky_factor_of_the_inverse(columns):
    torch.manual_seed(0)
    inputs = torch.randn(2 * columns, columns)
    hessian = inputs.T @ inputs / columns
    factor = factor_inverse(group_of(columns), hessian, 0.01)
    damped = hessian.double() + 0.01 * hessian.double().diagonal().mean() * torch.eye(columns).double()
    expected = torch.linalg.cholesky(torch.linalg.inv(damped)).T
    assert torch.allclose(factor.diagonal.double(), expected.diagonal(), rtol=1e-4)
    assert torch.allclose(factor.unit.double(), expected / expected.diagonal().unsqueeze(1), atol=1e-4)
    assert factor.damping == 0.01
    assert not factor.dead.any()


def test_inputs_that_were_always_zero_touch_no_other():
    inputs = torch.randn(50, 6)
    inputs[:, 2] = 0
    factor = factor_inverse(group_of(6), inputs.T @ inputs, 0.01)
    assert factor.dead.tolist() == [False, False, True, False, False, False]
    others = [0, 1, 3, 4, 5]
    assert not factor.unit[2, others].any()
    assert not factor.unit[others, 2].any()


def test_factoring_leaves_the_hessian_as_it_was():
    inputs = torch.randn(50, 6)
    hessian = inputs.T @ inputs
    before = hessian.clone()
    factor_inverse(group_of(6), hessian, 0.01)
    assert torch.equal(hessian, before)
