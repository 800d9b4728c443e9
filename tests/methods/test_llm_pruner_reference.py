"""LLM-Pruner's gradients, scores and choices against plain transcriptions: one backward pass, loops, float64."""

import math

import pytest
import torch

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.errors import BadCheckpoint, BadRequest, Unsupported
from harness.methods.llm_pruner.coupled import block_units
from harness.methods.llm_pruner.gradients import block_gradients
from harness.methods.llm_pruner.importance import magnitude_score, taylor_score, unit_scores
from harness.methods.llm_pruner.unit_choice import ScoredUnits, choose_alike, choose_over_all
from harness.methods.llm_pruner.widths import BlockWidths, measure
from tests.methods.pruning_contexts import make_context
from tests.support.tiny_checkpoints import FAMILIES, tiny_model, tiny_tokens

HEAD = 8


def whole_backward(model, sequences):
    """The gradients of every decoder linear by one loss.backward() through a float64 copy of the whole model."""
    model.double()
    linears = linears_of(decoder_blocks(model))
    for linear in linears:
        linear.module.weight.requires_grad_()
    losses = [model(tokens.unsqueeze(0), labels=tokens.unsqueeze(0)).loss for tokens in sequences]
    predicted = [len(tokens) - 1 for tokens in sequences]
    mean = sum(loss * count for loss, count in zip(losses, predicted, strict=True)) / sum(predicted)
    mean.backward(retain_graph=True)
    whole = {linear.name: linear.module.weight.grad.clone() for linear in linears}
    squares = {name: torch.zeros_like(gradient) for name, gradient in whole.items()}
    for loss in losses:
        model.zero_grad()
        loss.backward(retain_graph=True)
        for linear in linears:
            squares[linear.name] += linear.module.weight.grad**2 / len(losses)
    return whole, squares


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_block_by_block_are_those_of_one_backward_pass_through_the_model(tmp_path, family):
    sequences = [*tiny_tokens(3, 12), *tiny_tokens(2, 7, seed=1)]
    expected, squares = whole_backward(tiny_model(family), sequences)
    model = tiny_model(family)
    context = make_context(model, sequences, tmp_path)
    seen = []
    for block, found in block_gradients(context, batch_size=2, per_sequence=True):
        seen.append(block.index)
        for name, gradient in found.items():
            assert torch.allclose(gradient.loss.double(), expected[name], atol=1e-6, rtol=1e-3), name
            assert torch.allclose(gradient.mean_square.double(), squares[name], atol=1e-7, rtol=1e-3), name
    assert seen == [2, 1, 0]
    for _, found in block_gradients(context, batch_size=2):
        for name, gradient in found.items():
            assert gradient.mean_square is None
            assert torch.allclose(gradient.loss.double(), expected[name], atol=1e-6, rtol=1e-3), name
    untouched = tiny_model(family).state_dict()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_model_in_half_precision_has_its_gradients_computed_in_float32(tmp_path):
    sequences = tiny_tokens(2, 12)
    expected, _ = whole_backward(tiny_model("llama"), sequences)
    model = tiny_model("llama").bfloat16()
    for _, found in block_gradients(make_context(model, sequences, tmp_path), batch_size=2):
        for name, gradient in found.items():
            assert gradient.loss.dtype == torch.float32
            assert (gradient.loss - expected[name]).norm() < 0.02 * expected[name].norm()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_sequences_of_one_token_are_refused(tmp_path):
    context = make_context(tiny_model("llama"), tiny_tokens(2, 1), tmp_path)
    with pytest.raises(BadRequest, match="single token"):
        next(iter(block_gradients(context, batch_size=2)))


def test_a_loss_that_is_not_finite_is_refused(tmp_path):
    model = tiny_model("llama")
    model.lm_head.weight[3, 0] = float("inf")
    with pytest.raises(BadCheckpoint, match="loss on the calibration text"):
        next(iter(block_gradients(make_context(model, tiny_tokens(2, 8), tmp_path), batch_size=2)))


def salience(order, weight, gradient, square):
    if order in ("param_first", "vectorize"):
        return weight * gradient
    second = weight * square * weight
    return second if order == "param_second" else weight * gradient - 0.5 * second


def row_score(values, order):
    return abs(sum(values)) if order == "vectorize" else sum(abs(value) for value in values)


def combine(values, grouping):
    return {
        "sum": sum(values),
        "mean": sum(values) / len(values),
        "max": max(values),
        "prod": math.prod(values),
        "first": values[0],
    }[grouping]


def reference_scores(block, order, grouping, gradients, squares):
    """Scores of key-value heads and of channels, one number at a time."""
    matrix = {}
    for linear in block.linears:
        weight = linear.module.weight.double()
        part = linear.name.removeprefix(f"{block.name}.")
        matrix[part] = salience(order, weight, gradients[linear.name], squares[linear.name]).tolist()
    output = matrix.get("self_attn.o_proj") or matrix["self_attn.out_proj"]
    key = matrix["self_attn.k_proj"]
    kv_heads = len(key) // HEAD
    shared = len(matrix["self_attn.q_proj"]) // len(key)
    heads = []
    for head in range(kv_heads):
        total = 0.0
        for place in range(HEAD):
            queries = [(head * shared + one) * HEAD + place for one in range(shared)]
            own = head * HEAD + place
            total += combine(
                [
                    sum(row_score(matrix["self_attn.q_proj"][row], order) for row in queries),
                    row_score(key[own], order),
                    row_score(matrix["self_attn.v_proj"][own], order),
                    sum(row_score([row[column] for row in output], order) for column in queries),
                ],
                grouping,
            )
        heads.append(total)
    if "fc1" in matrix:
        into, down = [matrix["fc1"]], matrix["fc2"]
    elif "mlp.gate_up_proj" in matrix:
        fused, down = matrix["mlp.gate_up_proj"], matrix["mlp.down_proj"]
        into = [fused[: len(fused) // 2], fused[len(fused) // 2 :]]
    else:
        into, down = [matrix["mlp.gate_proj"], matrix["mlp.up_proj"]], matrix["mlp.down_proj"]
    channels = []
    for channel in range(len(down[0])):
        rows = [row_score(one[channel], order) for one in into]
        channels.append(combine([*rows, row_score([row[channel] for row in down], order)], grouping))
    return heads, channels


CASES = [(order, "sum") for order in ("param_first", "param_second", "param_mix", "vectorize")]
CASES += [("param_first", grouping) for grouping in ("mean", "max", "prod", "first")]


@pytest.mark.parametrize("family", ["llama", "qwen2", "glm", "opt"])
@pytest.mark.parametrize(("order", "grouping"), CASES)
def test_scores_are_those_of_the_formulas_written_out(tmp_path, family, order, grouping):
    sequences = tiny_tokens(3, 10)
    gradients, squares = whole_backward(tiny_model(family), sequences)
    context = make_context(tiny_model(family), sequences, tmp_path)
    scored_blocks = []
    for block, found in block_gradients(context, batch_size=3, per_sequence=True):
        scored_blocks.append(block.index)
        units = block_units(block)
        for one, expected in zip(
            units.kinds, reference_scores(block, order, grouping, gradients, squares), strict=True
        ):
            scores = unit_scores(one, taylor_score(order, found), grouping, signed=order == "vectorize")
            assert scores.tolist() == pytest.approx(expected, rel=1e-2 if order != "param_first" else 1e-3)
    assert scored_blocks == [2, 1, 0]


def test_magnitude_scores_add_up_the_weights_of_a_channel():
    (block, *_) = decoder_blocks(tiny_model("llama"))
    parts = {linear.name.rpartition(".")[2]: linear.module.weight.double() for linear in block.linears}
    for power in (1, 2):
        scores = unit_scores(block_units(block).channels, magnitude_score(power), "sum")
        sizes = {name: weight.abs() ** power for name, weight in parts.items()}
        expected = sizes["gate_proj"].sum(1) + sizes["up_proj"].sum(1) + sizes["down_proj"].sum(0)
        assert torch.allclose(scores, expected)


def scored(model, seed):
    draw = torch.Generator().manual_seed(seed)
    return {
        block.index: tuple(
            ScoredUnits(one, torch.rand(one.units, generator=draw, dtype=torch.float64))
            for one in block_units(block).kinds
        )
        for block in decoder_blocks(model)
    }


def test_in_each_block_the_most_important_units_stay_in_order():
    pools = scored(tiny_model("llama"), seed=0)
    chosen = choose_alike(pools, BlockWidths(1, 30))
    assert chosen.keys() == pools.keys() == {0, 1, 2}
    for index, (heads, channels) in chosen.items():
        assert heads.tolist() == [int(pools[index][0].scores.argmax())]
        ranked = sorted(range(48), key=lambda one, index=index: float(pools[index][1].scores[one]))
        assert channels.tolist() == sorted(ranked[18:])


@pytest.mark.parametrize("parameters", [3_000, 9_999, 15_000])
def test_one_threshold_over_all_blocks_removes_the_least_important_parameters(parameters):
    model = tiny_model("llama")
    pools, size = scored(model, seed=1), measure(model, decoder_blocks(model))
    kept = choose_over_all(pools, parameters, multiple=4)
    gone, stays = [], []
    for index, kinds in pools.items():
        for kind, indices, least in zip(kinds, kept[index], (1, 4), strict=True):
            assert len(indices) >= least
            safe = set(kind.scores.argsort()[-least:].tolist())
            for unit in range(kind.units.units):
                rank = float(kind.scores[unit]) / kind.units.parameters_per_unit
                if unit not in indices.tolist():
                    gone.append(rank)
                elif unit not in safe:
                    stays.append(rank)
    assert max(gone) <= min(stays)
    removed = size.removed([BlockWidths(len(heads), len(channels)) for heads, channels in kept.values()])
    assert abs(removed - parameters) <= size.head_parameters / 2


def test_more_parameters_than_the_blocks_can_lose_are_refused():
    with pytest.raises(Unsupported, match="30000 parameters cannot be removed from 3 blocks"):
        choose_over_all(scored(tiny_model("llama"), seed=1), 30_000, multiple=4)
