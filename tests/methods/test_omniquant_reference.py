"""The training of one OPT block against a plain transcription in float64: one sequence at a time, autograd alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.architectures.blocks import decoder_blocks
from harness.errors import WorkerError
from harness.methods.numerics.rounding import RoundingGrid
from harness.methods.omniquant.rounding import Kernels
from harness.methods.omniquant.training import QuantizedBlock, Schedule, Targets, mean_error, train
from harness.methods.omniquant.transform import ChannelRange, EquivalentTransformation, plan_transformation
from harness.methods.skeleton.sequential import observe
from harness.methods.skeleton.stream import open_stream
from tests.support.tiny_checkpoints import tiny_model, tiny_tokens

HEADS, WIDTH, BITS = 4, 8, 3
EPOCHS, CLIPPING_RATE, TRANSFORMATION_RATE = 3, 1e-2, 5e-3
SCALES_AND_SHIFTS = 6
CPU = torch.device("cpu")


def exact_opt():
    model = tiny_model("opt").double()
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "layer_norm" in name:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def rounded(weight, upper, lower):
    """Learnable weight clipping, a row at a time."""
    rows = []
    for row, values in enumerate(weight):
        largest = torch.sigmoid(upper[row]) * values.max()
        smallest = torch.sigmoid(lower[row]) * values.min()
        scale = (largest - smallest) / (2**BITS - 1)
        zero = torch.round(-smallest / scale).detach()
        ratio = values / scale
        codes = (ratio + (torch.round(ratio) - ratio).detach() + zero).clamp(0, 2**BITS - 1)
        rows.append((codes - zero) * scale)
    return torch.stack(rows)


def opt_block(hidden, p):
    """One sequence [tokens, hidden] through a block of OPT with the parameters `p`."""
    normed = functional.layer_norm(hidden, hidden.shape[1:], *p["self_attn_layer_norm"])
    query, key, value = (functional.linear(normed, *p[name]) for name in ("q_proj", "k_proj", "v_proj"))
    heads = []
    for head in range(HEADS):
        part = slice(head * WIDTH, (head + 1) * WIDTH)
        scores = query[:, part] @ key[:, part].T / WIDTH**0.5
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
        heads.append(scores.softmax(-1) @ value[:, part])
    hidden = hidden + functional.linear(torch.cat(heads, 1), *p["out_proj"])
    normed = functional.layer_norm(hidden, hidden.shape[1:], *p["final_layer_norm"])
    return hidden + functional.linear(functional.linear(normed, *p["fc1"]).relu(), *p["fc2"])


def parameters_of(module):
    return {
        name.rpartition(".")[2]: (part.weight, part.bias)
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | nn.LayerNorm)
    }


def transformed(p, let, bounds):
    """Equations 3 to 5 of the paper: through the norms, through the values, between queries and keys; then rounding."""
    (qkv, qkv_shift), (up, up_shift), (out, out_shift), heads = let[0:2], let[2:4], let[4:6], let[6].flatten()
    weight, bias = dict.fromkeys(p), dict.fromkeys(p)
    for norm, scale, shift in (("self_attn_layer_norm", qkv, qkv_shift), ("final_layer_norm", up, up_shift)):
        weight[norm], bias[norm] = p[norm][0] / scale, (p[norm][1] - shift) / scale
    for name, scale, shift in (
        ("q_proj", qkv, qkv_shift),
        ("k_proj", qkv, qkv_shift),
        ("v_proj", qkv, qkv_shift),
        ("fc1", up, up_shift),
        ("out_proj", out, out_shift),
    ):
        weight[name], bias[name] = p[name][0] * scale, p[name][1] + p[name][0] @ shift
    weight["fc2"], bias["fc2"] = p["fc2"]
    weight["v_proj"], bias["v_proj"] = weight["v_proj"] / out[:, None], (bias["v_proj"] - out_shift) / out
    weight["q_proj"], bias["q_proj"] = weight["q_proj"] / heads[:, None], bias["q_proj"] / heads
    weight["k_proj"], bias["k_proj"] = weight["k_proj"] * heads[:, None], bias["k_proj"] * heads
    for name, (upper, lower) in bounds.items():
        weight[name] = rounded(weight[name], upper, lower)
    return {name: (weight[name], bias[name]) for name in p}


def reference(module, inputs, targets, same, let):
    """Learn `let` and the bounds; returns both and the losses of all steps."""
    p = parameters_of(module)
    let = [value.clone().requires_grad_() for value in let]
    bounds = {
        name: [torch.full((len(p[name][0]),), 4.0, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        for name in p
        if "norm" not in name
    }
    groups = [
        {"params": let, "lr": TRANSFORMATION_RATE},
        {"params": [bound for pair in bounds.values() for bound in pair], "lr": CLIPPING_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0)
    for _ in range(EPOCHS):
        for hidden, target, other in zip(inputs, targets, same, strict=True):
            outputs = opt_block(hidden[0], transformed(p, let, bounds))
            loss = ((outputs - target[0]) ** 2).mean() + ((outputs - other[0]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return let, bounds


def test_training_learns_what_a_plain_transcription_learns():
    model = exact_opt()
    blocks = decoder_blocks(model)
    block = blocks[1]
    compressed = open_stream(model, blocks, tiny_tokens(3, 12), batch_size=1, device=CPU)
    dense = open_stream(model, blocks, tiny_tokens(3, 12, seed=1), batch_size=1, device=CPU)
    same = compressed.copy()
    same.advance(block)
    seen = observe(dense, block, block.groups, lambda group: ChannelRange(group, CPU), advance=True)
    plan = plan_transformation(block, query_key=True, shift=True)
    transformation = EquivalentTransformation(block, plan, dict(zip(block.groups, seen, strict=True)), alpha=0.5)
    start = [value.clone() for value in transformation.parameters()]

    with torch.enable_grad():
        let, bounds = reference(block.module, compressed.hidden, dense.hidden, same.hidden, start)
    quantized = QuantizedBlock(
        block,
        RoundingGrid(BITS, 0, symmetric=False, scale_dtype=torch.float64),
        Kernels(),
        clipping=True,
        transformation=transformation,
        dtype=torch.float64,
    )
    schedule = Schedule(EPOCHS, CLIPPING_RATE, TRANSFORMATION_RATE, torch.float64)
    targets = Targets(compressed, dense, same)
    before = mean_error(quantized, targets)
    train(block, quantized, targets, schedule)

    learned_groups = quantized.learned(schedule)
    for ours, theirs in zip(learned_groups[0]["params"], let, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    for theirs, initial in zip(let[:SCALES_AND_SHIFTS], start[:SCALES_AND_SHIFTS], strict=True):
        assert not torch.allclose(theirs, initial, atol=1e-3)
    expected = [bound for linear in block.linears for bound in bounds[linear.name.rpartition(".")[2]]]
    for ours, theirs in zip(learned_groups[1]["params"], expected, strict=True):
        assert torch.allclose(ours.flatten(), theirs, atol=1e-6)
    assert mean_error(quantized, targets) < before


def test_after_the_fold_the_block_computes_what_it_was_trained_to():
    model = exact_opt()
    blocks = decoder_blocks(model)
    stream = open_stream(model, blocks, tiny_tokens(2, 12), batch_size=1, device=CPU)
    ahead = stream.copy()
    block = blocks[0]
    seen = observe(ahead, block, block.groups, lambda group: ChannelRange(group, CPU), advance=True)
    plan = plan_transformation(block, query_key=True, shift=True)
    quantized = QuantizedBlock(
        block,
        RoundingGrid(4, 8, symmetric=False, scale_dtype=torch.float32),
        Kernels(),
        clipping=True,
        transformation=EquivalentTransformation(block, plan, dict(zip(block.groups, seen, strict=True)), alpha=0.5),
        dtype=torch.float64,
    )
    trained = quantized.forward(stream, 0)
    folded = quantized.fold()
    for linear in block.linears:
        linear.module.weight.copy_(folded[linear.name].dequantize(torch.float64))
    assert torch.allclose(stream.forward(block, 0), trained, atol=1e-5)


def test_a_training_that_diverges_names_the_block_and_what_to_lower():
    model = exact_opt()
    blocks = decoder_blocks(model)
    stream = open_stream(model, blocks, tiny_tokens(2, 12), batch_size=1, device=CPU)
    targets = stream.copy()
    targets.hidden[1] = targets.hidden[1] + float("inf")
    grid = RoundingGrid(4, 0, symmetric=False, scale_dtype=torch.float32)
    quantized = QuantizedBlock(blocks[2], grid, Kernels(), clipping=True, transformation=None, dtype=torch.float64)
    with pytest.raises(WorkerError, match=r"training model\.decoder\.layers\.2 diverged: .* in epoch 1") as failure:
        train(blocks[2], quantized, Targets(stream, targets), Schedule(2, 1e-2, 5e-3, torch.float64))
    assert "let_lr" in failure.value.hint
