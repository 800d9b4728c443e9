"""The parts of AWQ's searches: shortcuts give what the direct formula gives, and the choices are the best ones."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.architectures.blocks import decoder_blocks
from harness.methods.awq import scale_search
from harness.methods.awq.clipping import clip, search_clipping
from harness.methods.awq.inspection import LinearInspection, ModuleInspection, ModuleRecording, tensor_cores
from harness.methods.awq.method import Observed
from harness.methods.awq.scale_search import (
    candidate_scales,
    mean_relative_magnitude,
    search_notes,
    search_scale,
    searched_batches,
)
from harness.methods.numerics.rounding import RoundingGrid, fake_quantize, quantize
from harness.methods.skeleton.sequential import observe
from harness.methods.skeleton.stream import open_stream
from tests.support.tiny_checkpoints import tiny_model, tiny_tokens

CPU = torch.device("cpu")
SHRINKS = [step / 20 for step in range(10)]


def make_grid(bits=4, group=8, symmetric=False, dtype=torch.float32):
    return RoundingGrid(bits, group, symmetric, dtype)


def heavy_tailed(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) * torch.randn(rows, columns, generator=generator).exp()


def quiet(linear):
    return linear.requires_grad_(requires_grad=False)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_weight_goes_to_the_nearest_value_of_the_stored_grid(bits, symmetric, dtype):
    weight = heavy_tailed(6, 32)
    quantized = quantize(weight, make_grid(bits, 8, symmetric, dtype))
    assert quantized.scale.dtype == dtype
    assert quantized.scale.shape == (6, 4)
    codes = torch.arange(2**bits, dtype=torch.float64)
    for row in range(6):
        for column in range(32):
            scale, zero = quantized.scale[row, column // 8].double(), quantized.zero[row, column // 8].double()
            values = (codes - zero) * scale
            chosen = abs(values[quantized.codes[row, column].long()] - weight[row, column])
            assert chosen <= (values - weight[row, column]).abs().min() + 1e-6 * scale


def test_a_symmetric_grid_is_centred_and_its_largest_weight_is_kept():
    weight = heavy_tailed(5, 16)
    quantized = quantize(weight, make_grid(4, 0, symmetric=True))
    assert (quantized.zero == 8).all()
    largest = weight.abs().max(1)
    assert torch.equal(
        (quantized.codes.long() - 8).gather(1, largest.indices.unsqueeze(1)).abs(), torch.full((5, 1), 7)
    )
    torch.testing.assert_close(quantized.scale.squeeze(1), largest.values / 7)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_group_of_one_sign_keeps_zero_within_its_range(sign):
    weight = sign * torch.linspace(0.5, 1.0, 16).unsqueeze(0)
    error = quantize(weight, make_grid(4, 0)).dequantize(torch.float32) - weight
    assert error.abs().max() <= 1 / 15 / 2 + 1e-6


def test_rows_of_zeros_stay_zero():
    weight = heavy_tailed(3, 16)
    weight[1] = 0
    for symmetric in (False, True):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            values = quantize(weight, make_grid(8, 8, symmetric, dtype)).dequantize(torch.float32)
            assert (values[1] == 0).all()
            assert torch.isfinite(values).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_values_searched_with_are_those_that_will_be_stored(symmetric, dtype):
    weight = heavy_tailed(6, 32)
    grid = make_grid(4, 8, symmetric, dtype)
    stored = quantize(weight, grid).dequantize(torch.float32)
    assert torch.equal(fake_quantize(grid.groups(weight), grid).reshape(weight.shape), stored)


def test_the_loss_of_one_linear_is_the_mean_squared_change_of_its_output():
    linear = quiet(nn.Linear(24, 7))
    inputs = heavy_tailed(100, 24, seed=1)
    changed = linear.weight + 0.1 * heavy_tailed(7, 24, seed=2)
    loss = LinearInspection(linear, inputs.T @ inputs / 100).loss([changed], math.inf)
    direct = (inputs.double() @ (changed - linear.weight).double().T).square().mean()
    assert loss == pytest.approx(float(direct), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral-sliding", "glm", "opt"])
def test_the_loss_of_a_module_is_the_mean_squared_change_of_its_output(family):
    model = tiny_model(family)
    blocks = decoder_blocks(model)
    tokens = tiny_tokens(5, 11)
    block = blocks[1]
    part = [linear.module for linear in block.groups[0].linears]
    stream = open_stream(model, blocks, tokens, batch_size=2, device=CPU)
    stream.advance(blocks[0])
    recording = ModuleRecording(block.attention, stream, (0, 1, 2))
    with recording.recording():
        observe(stream, block, (), lambda group: None, advance=True)
    changed = [linear.weight + 0.05 for linear in part]
    loss = ModuleInspection(recording, part).loss(changed, math.inf)

    before = attention_outputs(model, block, tokens)
    assert ModuleInspection(recording, part).loss([linear.weight for linear in part], math.inf) < 1e-12
    for linear, weight in zip(part, changed, strict=True):
        linear.weight.copy_(weight)
    after = attention_outputs(model, block, tokens)
    assert loss == pytest.approx(float((after - before).double().square().mean()), rel=1e-4)


def attention_outputs(model, block, tokens):
    """Of the second block, whose inputs do not change when its own weights do."""
    seen = []
    handle = block.attention.register_forward_hook(lambda module, arguments, output: seen.append(output[0]))
    model(tokens)
    handle.remove()
    return seen[0]


def test_a_recording_leaves_no_hook_behind_and_keeps_batches_of_different_lengths():
    model = tiny_model("llama")
    blocks = decoder_blocks(model)
    sequences = [*tiny_tokens(3, 9), *tiny_tokens(2, 5)]
    stream = open_stream(model, blocks, sequences, batch_size=2, device=CPU)
    recording = ModuleRecording(blocks[0].attention, stream, (0, 1, 2))
    with recording.recording():
        observe(stream, blocks[0], (), lambda group: None, advance=True)
    assert not blocks[0].attention._forward_hooks
    assert not blocks[0].attention._forward_pre_hooks
    assert recording.loss() == 0


def test_a_recording_keeps_only_the_batches_that_are_asked_for():
    model = tiny_model("llama")
    blocks = decoder_blocks(model)
    tokens = tiny_tokens(5, 11)
    stream = open_stream(model, blocks, tokens, batch_size=1, device=CPU)
    recording = ModuleRecording(blocks[0].mlp_norm, stream, (1, 4))
    with recording.recording():
        observe(stream, blocks[0], (), lambda group: None, advance=True)
    assert len(recording.inputs.hidden) == len(recording.outputs.hidden) == 2
    before = torch.cat([outputs.clone() for outputs in recording.outputs.hidden])
    blocks[0].mlp_norm.weight.mul_(1.5)
    assert recording.loss() == pytest.approx(float((before / 2).double().square().mean()), rel=1e-5)
    chosen = open_stream(model, blocks, tokens[[1, 4]], batch_size=2, device=CPU)
    again = ModuleRecording(blocks[0].mlp_norm, chosen, (0,))
    with again.recording():
        observe(chosen, blocks[0], (), lambda group: None, advance=True)
    torch.testing.assert_close(again.outputs.hidden[0], before * 1.5)


def test_a_loss_above_the_bound_is_given_up_before_all_batches_are_run():
    model = tiny_model("llama")
    blocks = decoder_blocks(model)
    stream = open_stream(model, blocks, tiny_tokens(6, 11), batch_size=1, device=CPU)
    recording = ModuleRecording(blocks[0].attention, stream, range(6))
    with recording.recording():
        observe(stream, blocks[0], (), lambda group: None, advance=True)
    blocks[0].groups[0].linears[0].module.weight.add_(0.1)
    runs = []
    blocks[0].attention.register_forward_hook(lambda module, arguments, output: runs.append(module))
    whole = recording.loss()
    assert len(runs) == 6
    assert recording.loss(whole) == whole
    runs.clear()
    assert recording.loss(whole / 4) == math.inf
    assert 1 <= len(runs) < 6


@pytest.mark.parametrize(
    ("lengths", "wanted", "expected"),
    [
        ([8] * 6, 24, (0, 2, 4)),
        ([8] * 6, 17, (0, 2, 4)),
        ([8] * 6, 16, (0, 3)),
        ([8] * 5, 20, (0, 1, 3)),
        ([8] * 5, 1, (0,)),
        ([8] * 5, 40, (0, 1, 2, 3, 4)),
        ([8] * 5, 4000, (0, 1, 2, 3, 4)),
        ([8] * 5, 0, (0, 1, 2, 3, 4)),
        ([2, 2, 9, 9], 10, (0, 2)),
    ],
)
def test_the_search_takes_the_fewest_batches_at_even_distances_that_hold_its_tokens(lengths, wanted, expected):
    model = tiny_model("llama")
    sequences = [tiny_tokens(1, length, seed=seed)[0] for seed, length in enumerate(lengths)]
    stream = open_stream(model, decoder_blocks(model), sequences, batch_size=1, device=CPU)
    assert searched_batches(stream, wanted) == expected
    assert bool(search_notes(stream, expected)) == (len(expected) < len(lengths))


def test_the_note_counts_the_sequences_and_tokens_that_are_searched_on():
    model = tiny_model("llama")
    stream = open_stream(model, decoder_blocks(model), tiny_tokens(7, 5), batch_size=2, device=CPU)
    (note,) = search_notes(stream, searched_batches(stream, 20))
    assert "4 of 7 calibration sequences, 20 of 35 tokens" in note


def test_every_candidate_scale_is_a_power_of_the_inputs_with_balanced_extremes():
    inputs = heavy_tailed(1, 20).abs()[0]
    candidates = candidate_scales(inputs, 20)
    assert torch.equal(candidates[0], torch.ones(20))
    torch.testing.assert_close(candidates.amax(1) * candidates.amin(1), torch.ones(20))
    expected = inputs.double() ** 0.35
    torch.testing.assert_close(candidates[7].double(), expected / (expected.max() * expected.min()).sqrt())


def test_a_dead_channel_keeps_the_scales_finite():
    inputs = torch.tensor([0.0, 1e-9, 1.0, 50.0])
    candidates = candidate_scales(inputs, 20)
    assert torch.isfinite(candidates).all()
    assert (candidates > 0).all()


def test_duo_scaling_weighs_the_relative_size_of_the_weights_against_the_inputs():
    linears = [quiet(nn.Linear(16, 5)), quiet(nn.Linear(16, 3))]
    inputs = heavy_tailed(1, 16).abs()[0]
    together = torch.cat([linear.weight for linear in linears]).double().abs()
    shares = torch.empty_like(together)
    for row in range(8):
        for start in (0, 8):
            group = together[row, start : start + 8]
            shares[row, start : start + 8] = group / (group.max() + 1e-6)
    magnitude = mean_relative_magnitude(linears, make_grid(group=8))
    torch.testing.assert_close(magnitude.double(), shares.mean(0), rtol=1e-5, atol=1e-7)
    candidates = candidate_scales(inputs, 20, magnitude)
    expected = inputs.double() ** 0.25 / (shares.mean(0) ** 0.75 + 1e-4)
    torch.testing.assert_close(
        candidates[5].double(), expected / (expected.max() * expected.min()).sqrt(), rtol=1e-5, atol=1e-7
    )


def test_the_scale_with_the_least_loss_is_found_and_the_weights_are_left_alone():
    linear = quiet(nn.Linear(16, 6))
    inputs = heavy_tailed(200, 16)
    inputs[:, 3] *= 30
    before = linear.weight.clone()
    grid = make_grid(3, 8)
    candidates = candidate_scales(inputs.abs().mean(0), 20)
    found = search_scale([linear], candidates, grid, LinearInspection(linear, inputs.T @ inputs / 200), first=19)
    losses = []
    for scale in candidates:
        weight = quantize(before * scale, grid).dequantize(torch.float32) / scale
        losses.append(float((inputs @ (weight - before).T).square().mean()))
    best = losses.index(min(losses))
    assert best > 0
    assert found.candidate == best
    assert torch.equal(found.scale, candidates[best])
    assert found.loss == pytest.approx(losses[best], rel=1e-4)
    assert torch.equal(linear.weight, before)


class _Parts:
    """An inspection whose losses are sums of given parts, and given up as soon as they are above the bound."""

    def __init__(self, parts):
        self._parts = parts

    def loss(self, weights, most):
        total = 0.0
        for part in self._parts[int(weights[0][0])]:
            total += part
            if total > most:
                return math.inf
        return total


def search_among(parts, first):
    """The search among candidates with these parts of their losses. Candidate n is told by its scale, n."""
    candidates = torch.arange(len(parts)).unsqueeze(1)
    with mock.patch.object(scale_search, "_round_scaled", lambda weight, scale, grid: scale):
        return search_scale([nn.Linear(1, 1)], candidates, make_grid(), _Parts(parts), first=first)


PART = st.one_of(st.integers(0, 3).map(float), st.floats(0, 1e300), st.sampled_from([math.nan, math.inf]))


@given(data=st.data(), candidates=st.integers(1, 8), batches=st.integers(1, 4))
def test_the_scale_found_is_that_of_the_plain_search_whatever_it_starts_from(data, candidates, batches):
    parts = data.draw(
        st.lists(st.lists(PART, min_size=batches, max_size=batches), min_size=candidates, max_size=candidates)
    )
    first = data.draw(st.integers(0, candidates - 1))
    plain = [math.inf if math.isnan(sum(one, 0.0)) else sum(one, 0.0) for one in parts]
    found = search_among(parts, first)
    assert found.candidate == plain.index(min(plain))
    assert found.loss == min(plain)


def test_a_candidate_that_overflows_is_passed_over_and_the_first_of_equals_is_taken():
    for first in range(4):
        assert search_among([[math.nan], [math.inf], [2.0], [2.0]], first).candidate == 2
        assert search_among([[math.nan]] * 4, first).loss == math.inf


@pytest.mark.parametrize("tokens", [5, 300], ids=["fewer tokens than inputs", "more tokens than inputs"])
@pytest.mark.parametrize("group", [8, 0])
def test_the_ranges_are_those_of_a_plain_search(tokens, group):
    weight, samples = heavy_tailed(6, 32).double(), heavy_tailed(tokens, 32, seed=1).double()
    grid = make_grid(3, group)
    limits = search_clipping(weight, samples, grid, shrinks=SHRINKS)
    size = group or 32
    for row in range(6):
        for start in range(0, 32, size):
            part, seen = weight[row, start : start + size], samples[:, start : start + size]
            errors = []
            for shrink in SHRINKS:
                limit = part.abs().max() * (1 - shrink)
                rounded = quantize(part.clamp(-limit, limit).unsqueeze(0), make_grid(3, 0)).dequantize(torch.float64)
                errors.append(float((seen @ (rounded[0] - part)).square().mean()))
            expected = part.abs().max() * (1 - SHRINKS[errors.index(min(errors))])
            assert float(limits[row, start // size, 0]) == pytest.approx(float(expected), rel=1e-12)
    assert torch.equal(clip(weight, limits, grid).abs().reshape(6, -1, size).amax(-1), limits.squeeze(-1))


def test_ranges_are_found_row_by_row_however_many_are_tried_together(monkeypatch):
    from harness.methods.awq import clipping

    weight, samples = heavy_tailed(13, 32), heavy_tailed(50, 32, seed=1)
    together = search_clipping(weight, samples, make_grid(), shrinks=SHRINKS)
    monkeypatch.setitem(clipping._CHUNK_WEIGHTS, "cpu", 5 * 32)
    assert torch.equal(search_clipping(weight, samples, make_grid(), shrinks=SHRINKS), together)


def test_a_row_of_zeros_is_not_clipped_to_something_else():
    weight = heavy_tailed(3, 16)
    weight[0] = 0
    limits = search_clipping(weight, heavy_tailed(40, 16, seed=1), make_grid(), shrinks=SHRINKS)
    assert (limits[0] == 0).all()
    assert (clip(weight, limits, make_grid())[0] == 0).all()


def test_products_on_a_cpu_keep_float32_and_the_precision_is_put_back():
    before = torch.get_float32_matmul_precision()
    with tensor_cores(CPU):
        assert torch.get_float32_matmul_precision() == before
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("batches", [[40, 7, 1, 33], [81]])
def test_what_is_observed_of_the_inputs_does_not_depend_on_the_batches(batches):
    group = decoder_blocks(tiny_model("llama"))[0].groups[3]
    inputs = heavy_tailed(81, group.in_features)
    observed = Observed(group, CPU, stride=9, moments=True, sample=True)
    for batch in torch.split(inputs, batches):
        observed.add(batch, sequences=1)
    assert torch.equal(observed.samples, inputs[::9])
    torch.testing.assert_close(observed.magnitude, inputs.abs().mean(0))
    torch.testing.assert_close(observed.moments, inputs.T @ inputs / 81, rtol=1e-4, atol=1e-4)
