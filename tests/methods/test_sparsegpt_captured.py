"""The CUDA graphs of the column loops. On a CPU the functions are called as they are."""

from functools import partial

import pytest
import torch

from harness.methods.gptq.columns import round_block
from harness.methods.numerics.captured import Captured
from harness.methods.sparsegpt import eliminate_masked, eliminate_pattern

COLUMNS, ROWS = 64, 96


def inputs_of(name, device, columns=COLUMNS, seed=0):
    torch.manual_seed(seed)
    block = torch.randn(columns, ROWS, device=device)
    unit = torch.eye(columns, device=device) + 0.1 * torch.randn(columns, columns, device=device).triu(1)
    if name == "masked":
        return block, unit, (torch.rand(columns, ROWS, device=device) < 0.5).float()
    if name == "pattern":
        return block, unit, torch.rand(columns, 1, device=device) + 0.5
    return block, unit, torch.full_like(block, 0.3), torch.full_like(block, -7), torch.full_like(block, 8)


FUNCTIONS = {
    "masked": eliminate_masked,
    "pattern": partial(eliminate_pattern, target=(2, 4)),
    "rounded": round_block,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_on_a_cpu_the_function_itself_is_called(name):
    captured = Captured(FUNCTIONS[name], log=pytest.fail)
    expected = FUNCTIONS[name](*inputs_of(name, "cpu"))
    found = captured(*inputs_of(name, "cpu"))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_replayed_graph_computes_what_the_function_computes(name):
    captured = Captured(FUNCTIONS[name], log=pytest.fail)
    for seed, columns in enumerate((COLUMNS, COLUMNS, 32, COLUMNS)):
        expected = FUNCTIONS[name](*inputs_of(name, "cuda", columns, seed))
        found = captured(*inputs_of(name, "cuda", columns, seed))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.gpu
def test_what_cannot_be_recorded_is_run_step_by_step_and_said():
    said = []

    def reads_the_host(values):
        return (values * float(values.sum()),)

    captured = Captured(reads_the_host, log=said.append)
    values = torch.ones(3, device="cuda")
    for _ in range(2):
        assert captured(values)[0].tolist() == [3, 3, 3]
    assert len(said) == 1
