"""Rounded weights and tokens, and their gradients, against the plain formulas in float64, one group at a time."""

import pytest
import torch

from harness.architectures.blocks import decoder_blocks
from harness.contract import Quantization
from harness.methods.numerics.rounding import RoundingGrid, quantize
from harness.methods.omniquant.activations import RoundedTokens, quantized_activations
from harness.methods.omniquant.clipping import ClippedWeight, Factors
from harness.methods.omniquant.rounding import Kernels, choose_kernels
from harness.quantization.activations import fake_quantize_tokens
from tests.support.tiny_checkpoints import tiny_model

ROWS, INPUTS = 6, 24


def straight_through(value):
    return value + (value.round() - value).detach()


def plain_group(values, upper, lower, bits, symmetric):
    largest, smallest = values.max().clamp(min=0), values.min().clamp(max=0)
    largest, smallest = torch.sigmoid(upper) * largest, torch.sigmoid(lower) * smallest
    if symmetric:
        scale = torch.maximum(largest, -smallest) / (2 ** (bits - 1) - 1)
        zero = 2 ** (bits - 1)
    else:
        scale = (largest - smallest) / (2**bits - 1)
        zero = torch.round(-smallest / scale).detach()
    return ((straight_through(values / scale) + zero).clamp(0, 2**bits - 1) - zero) * scale


def plain_weight(weight, columns, rows, bounds, grid):
    """[rows, inputs]; `bounds` are the upper and lower ones, [rows, groups]."""
    size = grid.group_size or weight.shape[1]
    result = []
    for row in range(len(weight)):
        values = weight[row] * (1 if columns is None else columns) * (1 if rows is None else rows[row])
        parts = [
            plain_group(
                values[start : start + size],
                *(bound[row, start // size] for bound in bounds),
                grid.bits,
                grid.symmetric,
            )
            for start in range(0, weight.shape[1], size)
        ]
        result.append(torch.cat(parts))
    return torch.stack(result)


def grid_of(bits=3, group_size=0, symmetric=False, scale_dtype=torch.float64):
    return RoundingGrid(bits, group_size, symmetric, scale_dtype)


def learnable(*size, low=0.5, high=2.0):
    return (torch.rand(*size, dtype=torch.float64) * (high - low) + low).requires_grad_()


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("group_size", [0, 8])
@pytest.mark.parametrize("factors", ["none", "columns", "rows", "both"])
def test_rounded_weights_and_their_gradients_follow_the_published_formula(symmetric, group_size, factors):
    torch.manual_seed(0)
    weight = torch.randn(ROWS, INPUTS, dtype=torch.float64)
    columns = learnable(INPUTS) if factors in ("columns", "both") else None
    rows = learnable(ROWS) if factors in ("rows", "both") else None
    grid = grid_of(3, group_size, symmetric)
    clipped = ClippedWeight(weight, grid, learn=True, kernels=Kernels())
    bounds = list(clipped.parameters())
    with torch.no_grad():
        for bound in bounds:
            bound.uniform_(-0.5, 3)
    learned = [value.requires_grad_() for value in (*bounds, columns, rows) if value is not None]
    weights_of_outputs = torch.randn(ROWS, INPUTS, dtype=torch.float64)

    rounded = clipped.round(Factors(columns, rows), torch.float64)
    ours = torch.autograd.grad((rounded * weights_of_outputs).sum(), learned)
    expected = plain_weight(weight, columns, rows, bounds, grid)
    plain = torch.autograd.grad((expected * weights_of_outputs).sum(), learned)

    assert torch.allclose(rounded, expected, atol=1e-12)
    for one, other in zip(ours, plain, strict=True):
        assert other.abs().max() > 0
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_codes_stand_for_the_very_values_that_training_computed_with(symmetric, storage):
    torch.manual_seed(1)
    weight = torch.randn(ROWS, INPUTS).to(storage)
    factors = Factors(torch.rand(INPUTS) + 0.5, torch.rand(ROWS) + 0.5)
    clipped = ClippedWeight(weight, grid_of(4, 8, symmetric, storage), learn=True, kernels=Kernels())
    quantized = clipped.quantize(factors)
    assert quantized.scale.dtype == storage
    assert quantized.codes.max() <= 15
    assert torch.equal(quantized.dequantize(storage), clipped.round(factors, storage))


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_training_starts_a_little_inside_the_range_of_plain_rounding(symmetric):
    torch.manual_seed(2)
    weight = torch.randn(ROWS, INPUTS)
    grid = grid_of(4, 0, symmetric, torch.float32)
    plain = quantize(weight, grid)
    clipped = ClippedWeight(weight, grid, learn=True, kernels=Kernels()).quantize(Factors())
    without = ClippedWeight(weight, grid, learn=False, kernels=Kernels()).quantize(Factors())
    assert torch.allclose(clipped.scale / plain.scale, torch.sigmoid(torch.tensor(4.0)).expand(ROWS, 1))
    assert torch.equal(without.codes, plain.codes)
    assert torch.allclose(without.scale, plain.scale)


def test_rows_of_zeros_and_rows_of_one_sign_have_codes():
    weight = torch.stack([torch.zeros(8), torch.linspace(1, 2, 8), torch.linspace(-2, -1, 8)])
    clipped = ClippedWeight(weight, grid_of(8, 0, scale_dtype=torch.bfloat16), learn=True, kernels=Kernels())
    values = clipped.quantize(Factors()).dequantize(torch.float32)
    assert torch.equal(values[0], torch.zeros(8))
    assert torch.allclose(values[1:], weight[1:], atol=0.05)
    assert torch.isfinite(clipped.round(Factors(), torch.float32)).all()


def test_kernels_are_compiled_on_gpus_only():
    logged = []
    assert choose_kernels(torch.device("cpu"), logged.append) == Kernels()
    assert logged == []


def plain_token(values, bits, symmetric):
    if symmetric:
        scale, zero = values.abs().max() / (2 ** (bits - 1) - 1), 2 ** (bits - 1)
    else:
        scale = (values.max() - values.min()) / (2**bits - 1)
        zero = torch.round(-values.min() / scale).detach()
    return ((straight_through(values / scale) + zero).clamp(0, 2**bits - 1) - zero) * scale


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_rounded_tokens_and_their_gradients_follow_the_published_formula(bits, symmetric):
    torch.manual_seed(3)
    tokens = torch.randn(2, 40, 16).double().requires_grad_()
    weights_of_outputs = torch.randn(2, 40, 16).double()
    rounded = RoundedTokens.apply(tokens, bits, symmetric)
    expected = torch.stack([torch.stack([plain_token(token, bits, symmetric) for token in part]) for part in tokens])
    (ours,) = torch.autograd.grad((rounded * weights_of_outputs).sum(), tokens)
    (plain,) = torch.autograd.grad((expected * weights_of_outputs).sum(), tokens)
    assert torch.allclose(rounded, expected, atol=1e-5)
    assert torch.equal(rounded.detach(), fake_quantize_tokens(tokens.detach(), bits, symmetric).double())
    assert torch.allclose(ours, plain, atol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_a_token_that_needs_no_scale_keeps_a_finite_gradient(symmetric):
    tokens = torch.zeros(3, 8, requires_grad=True)
    RoundedTokens.apply(tokens, 4, symmetric).sum().backward()
    assert torch.equal(tokens.grad, torch.ones(3, 8))


def test_activations_are_quantized_inside_the_context_and_only_there():
    model = tiny_model("llama")
    block = decoder_blocks(model)[0]
    hidden = torch.randn(1, 5, 32)
    positions = model.model.rotary_emb(hidden, torch.arange(5).unsqueeze(0))
    dense = block.module(hidden, position_embeddings=positions)
    quantization = Quantization(weight_bits=4, activation_bits=4, activations_symmetric=False, attention_bits=4)
    with quantized_activations(block, quantization):
        everything = block.module(hidden, position_embeddings=positions)
    with quantized_activations(block, quantization.model_copy(update={"attention_bits": None})):
        inputs = block.module(hidden, position_embeddings=positions)
    assert not torch.equal(everything, inputs)
    assert not torch.equal(inputs, dense)
    assert torch.equal(block.module(hidden, position_embeddings=positions), dense)
