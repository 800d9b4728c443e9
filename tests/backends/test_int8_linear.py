"""Products of 8-bit integers give what the simulation of quantized activations gives."""

import pytest
import torch

from harness.kernels.integer.linears import Int8Linear
from harness.quantization.activations import fake_quantize_tokens
from harness.quantization.weight import QuantizedWeight


def quantized(rows: int, inputs: int) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(0)
    return QuantizedWeight(
        codes=torch.randint(256, (rows, inputs), generator=generator, dtype=torch.uint8),
        scale=torch.rand(rows, 1, generator=generator) * 0.01,
        zero=torch.full((rows, 1), 128, dtype=torch.uint8),
        bits=8,
        symmetric=True,
    )


@pytest.mark.parametrize("tokens", [1, 31, 40])
def test_the_product_is_that_of_the_simulated_quantization(tokens: int) -> None:
    weight, bias = quantized(24, 64), torch.randn(24)
    x = torch.randn(2, tokens, 64, generator=torch.Generator().manual_seed(1))
    simulated = fake_quantize_tokens(x, 8, symmetric=True) @ weight.dequantize(torch.float32).T + bias
    torch.testing.assert_close(Int8Linear(weight, bias)(x), simulated, rtol=1e-4, atol=1e-4)


def test_a_token_of_zeros_stays_zero() -> None:
    assert torch.equal(Int8Linear(quantized(8, 16), None)(torch.zeros(1, 16)), torch.zeros(1, 8))
