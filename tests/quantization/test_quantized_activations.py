"""Activations rounded token by token, and hooks that do so at the right places of a model."""

import math

import pytest
import torch
from torch.nn import functional

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.contract import AttentionRounding, Quantization
from harness.quantization.activations import attach, fake_quantize_tokens
from tests.support.tiny_checkpoints import FAMILIES, tiny_model, tiny_tokens

BITS = (4, 6, 8)


def random_tokens(*shape: int, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + shift


def rounded_token(token: list[float], bits: int, symmetric: bool) -> list[float]:
    """One token by the definition, in double precision."""
    if symmetric:
        high = 2 ** (bits - 1) - 1
        scale = max(abs(value) for value in token) / high
        return [max(-high - 1, min(high, round(value / scale))) * scale for value in token]
    high = 2**bits - 1
    scale = (max(token) - min(token)) / high
    zero = -round(min(token) / scale)
    return [(max(0, min(high, round(value / scale) + zero)) - zero) * scale for value in token]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_each_token_is_rounded_by_its_own_extremes(bits, symmetric):
    x = random_tokens(2, 5, 24) * torch.tensor([0.1, 1, 10, 100, 1e-4])[:, None]
    rounded = fake_quantize_tokens(x, bits, symmetric)
    expected = [[rounded_token(token, bits, symmetric) for token in sequence] for sequence in x.double().tolist()]
    torch.testing.assert_close(rounded, torch.tensor(expected), rtol=1e-5, atol=0)
    assert all(len(set(token.tolist())) <= 2**bits for token in rounded.flatten(0, 1))


@pytest.mark.parametrize("symmetric", [True, False])
def test_no_value_moves_by_more_than_half_a_step(symmetric):
    x = random_tokens(50, 64, shift=0.5)
    levels = 127 if symmetric else 255
    extent = x.abs().amax(-1) if symmetric else x.amax(-1) - x.amin(-1)
    moved = (fake_quantize_tokens(x, 8, symmetric) - x).abs().amax(-1)
    step = extent / levels
    assert bool((moved <= (0.5 if symmetric else 1.0) * step * (1 + 1e-4)).all())


@pytest.mark.parametrize("symmetric", [True, False])
def test_tokens_that_need_no_scale_stay_as_they_are(symmetric):
    assert torch.equal(fake_quantize_tokens(torch.zeros(3, 8), 4, symmetric), torch.zeros(3, 8))
    tiniest = torch.full((1, 8), math.ulp(0.0))
    assert bool(torch.isfinite(fake_quantize_tokens(tiniest, 4, symmetric)).all())


def test_a_token_of_equal_values_keeps_them_without_symmetry():
    x = torch.full((1, 8), 0.3)
    assert torch.equal(fake_quantize_tokens(x, 4, symmetric=False), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_low_precision_values_are_rounded_in_float32_and_returned_in_their_dtype(dtype, symmetric):
    x = random_tokens(4, 32).to(dtype)
    rounded = fake_quantize_tokens(x, 8, symmetric)
    assert rounded.dtype is dtype
    assert torch.equal(rounded, fake_quantize_tokens(x.float(), 8, symmetric).to(dtype))


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_gradient_passes_the_rounding_within_the_range(symmetric):
    x = random_tokens(3, 16).requires_grad_()
    rounded = fake_quantize_tokens(x, 4, symmetric)
    assert torch.equal(rounded.detach(), fake_quantize_tokens(x.detach(), 4, symmetric))
    weights = random_tokens(3, 16, seed=1)
    (gradient,) = torch.autograd.grad((rounded * weights).sum(), x)
    inner = torch.ones_like(x, dtype=torch.bool)
    ends = (x.abs().argmax(-1),) if symmetric else (x.argmax(-1), x.argmin(-1))
    for end in ends:
        inner[torch.arange(3), end] = False
    clamped = gradient == 0
    torch.testing.assert_close(gradient[inner & ~clamped], weights[inner & ~clamped])
    assert int(clamped.sum()) <= 3


def quantized_forward(linear, bits, symmetric):
    """What a linear computes from quantized inputs, token by token."""

    def forward(inputs):
        flat = inputs.reshape(-1, inputs.shape[-1])
        rounded = torch.stack([fake_quantize_tokens(token, bits, symmetric) for token in flat])
        return functional.linear(rounded, linear.weight, linear.bias).view(*inputs.shape[:-1], -1)

    return forward


@pytest.mark.parametrize("family", FAMILIES)
def test_attached_hooks_quantize_the_inputs_of_all_the_decoders_linears_and_no_other(family):
    quantization = Quantization(weight_bits=8, activation_bits=4, activations_symmetric=False)
    tokens = tiny_tokens(2, 11)
    reference, hooked = tiny_model(family), tiny_model(family)
    for linear in linears_of(decoder_blocks(reference)):
        linear.module.forward = quantized_forward(linear.module, 4, symmetric=False)
    before = hooked(tokens).logits
    handles = attach(decoder_blocks(hooked), quantization)
    assert len(handles) == len(linears_of(decoder_blocks(hooked)))
    torch.testing.assert_close(hooked(tokens).logits, reference(tokens).logits)
    assert not torch.allclose(hooked(tokens).logits, before, atol=1e-2)
    for handle in handles:
        handle.remove()
    assert torch.equal(hooked(tokens).logits, before)


def test_activations_of_16_bits_leave_a_model_as_it_is():
    model = tiny_model("llama")
    assert attach(decoder_blocks(model), Quantization(weight_bits=4, activation_bits=16)) == ()


class _Recorder:
    """Stands in for the product of attention, and keeps what it was given."""

    def __init__(self, monkeypatch):
        self.calls = []
        product = functional.scaled_dot_product_attention

        def record(query, key, value, **keywords):
            self.calls.append((query, key, value, keywords))
            return product(query, key, value, **keywords)

        monkeypatch.setattr(functional, "scaled_dot_product_attention", record)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_multiplies_queries_keys_and_values_rounded_per_token_and_head(family, symmetric, monkeypatch):
    quantization = Quantization(
        weight_bits=8, activation_bits=16, activations_symmetric=symmetric, attention_bits=5, simulated=True
    )
    recorder = _Recorder(monkeypatch)
    tokens = tiny_tokens(2, 11)
    model = tiny_model(family)
    before = model(tokens).logits
    plain = recorder.calls[0]
    handles = attach(decoder_blocks(model), quantization)
    recorder.calls.clear()
    after = model(tokens).logits
    first = recorder.calls[0]
    assert len(handles) == len(recorder.calls) == len(decoder_blocks(model))
    for given, rounded in zip(plain[:3], first[:3], strict=True):
        for sequence in range(given.shape[0]):
            for head in range(given.shape[1]):
                for token in range(given.shape[2]):
                    expected = fake_quantize_tokens(given[sequence, head, token], 5, symmetric)
                    assert torch.equal(rounded[sequence, head, token], expected)
    for name, value in plain[3].items():
        same = torch.equal(first[3][name], value) if isinstance(value, torch.Tensor) else first[3][name] == value
        assert same, name
    assert not torch.allclose(after, before, atol=1e-3)
    for handle in handles:
        handle.remove()
    assert torch.equal(model(tokens).logits, before)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("family", ["llama", "opt", "qwen2", "glm"])
def test_projections_are_rounded_as_they_come_out_token_by_token_over_all_heads(family, symmetric):
    quantization = Quantization(
        weight_bits=8,
        activation_bits=16,
        activations_symmetric=symmetric,
        attention_bits=4,
        attention_rounding=AttentionRounding.PROJECTIONS,
        simulated=True,
    )
    tokens, model = tiny_tokens(2, 11), tiny_model(family)
    block = decoder_blocks(model)[0]
    plain, rounded = {}, {}
    linears = {linear.name: linear.module for linear in block.groups[0].linears}
    for name, linear in linears.items():
        linear.register_forward_hook(lambda _, __, output, name=name: plain.__setitem__(name, output))
    before = model(tokens).logits
    handles = attach([block], quantization)
    for name, linear in linears.items():
        linear.register_forward_hook(lambda _, __, output, name=name: rounded.__setitem__(name, output))
    after = model(tokens).logits
    assert len(handles) == len(linears) == 3
    for name, output in plain.items():
        for sequence in range(2):
            for token in range(11):
                expected = fake_quantize_tokens(output[sequence, token], 4, symmetric)
                assert torch.equal(rounded[name][sequence, token], expected)
    assert not torch.allclose(after, before, atol=1e-3)
    for handle in handles:
        handle.remove()
    assert torch.equal(model(tokens).logits, before)


def test_attention_can_be_exchanged_in_one_block_alone(monkeypatch):
    model = tiny_model("llama")
    blocks = decoder_blocks(model)
    attach(blocks[1:2], Quantization(weight_bits=4, activation_bits=16, attention_bits=4, simulated=True))
    recorder = _Recorder(monkeypatch)
    model(tiny_tokens(1, 7))
    values_of_a_head = [len(set(call[2][0, 0, 3].tolist())) for call in recorder.calls]
    assert [block.attention.config is model.config for block in blocks] == [True, False, True]
    assert values_of_a_head[0] == 8
    assert recorder.calls[1][0][0, 0, 3].unique().numel() <= 16
    assert model.config._attn_implementation == "sdpa"


def test_generation_with_a_cache_rounds_every_key_as_without_one():
    quantization = Quantization(weight_bits=8, activation_bits=8, attention_bits=8, simulated=True)
    model = tiny_model("mistral-sliding")
    attach(decoder_blocks(model), quantization)
    tokens = tiny_tokens(1, 12)
    whole = model(tokens, use_cache=False).logits
    cache = None
    for position in range(tokens.shape[1]):
        step = model(tokens[:, position : position + 1], past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        torch.testing.assert_close(step.logits[0, -1], whole[0, position], rtol=1e-3, atol=1e-3)
