"""AWQ against a plain transcription of the authors' procedure in float64: one sequence at a time, nothing shared."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness.architectures.blocks import decoder_blocks
from tests.methods.small_runs import compress_in_place
from tests.support.tiny_checkpoints import tiny_model, tiny_tokens

TOKENS = tiny_tokens(5, 13)
STEPS, SHRINKS = 20, 10


class Recorder:
    """Every call of every module of a block: its arguments and its output, sequence by sequence."""

    def __init__(self, model, block):
        self.calls = {name: [] for name, _ in block.module.named_modules()}
        handles = [
            module.register_forward_hook(self.note(name), with_kwargs=True)
            for name, module in block.module.named_modules()
        ]
        for sequence in TOKENS:
            model(sequence.unsqueeze(0), use_cache=False)
        for handle in handles:
            handle.remove()

    def note(self, name):
        def hook(module, arguments, keywords, output):
            self.calls[name].append((arguments, keywords, output[0] if isinstance(output, tuple) else output))

        return hook

    def inputs(self, name):
        return torch.cat([arguments[0].reshape(-1, arguments[0].shape[-1]) for arguments, _, _ in self.calls[name]])

    def loss(self, name, module):
        """The mean squared change of a module's output."""
        squares, count = 0.0, 0
        for arguments, keywords, before in self.calls[name]:
            output = module(*arguments, **keywords)
            change = (output[0] if isinstance(output, tuple) else output) - before
            squares, count = squares + float(change.square().sum()), count + change.numel()
        return squares / count


def rounded(weight, bits, group):
    """Asymmetric rounding, group by group; the scale is a float32 number."""
    parts = []
    for start in range(0, weight.shape[1], group):
        part = weight[:, start : start + group]
        high = part.max(1).values.clamp(min=0)
        low = part.min(1).values.clamp(max=0)
        scale = ((high - low).clamp(min=1e-5) / (2**bits - 1)).float().double().unsqueeze(1)
        zero = (-torch.round(low.unsqueeze(1) / scale)).clamp(0, 2**bits - 1)
        parts.append((torch.clamp(torch.round(part / scale) + zero, 0, 2**bits - 1) - zero) * scale)
    return torch.cat(parts, dim=1)


def best_scale(recorder, inspected, module, linears, inputs, quantize):
    magnitude = inputs.abs().mean(0)
    best, least = None, float("inf")
    for step in range(STEPS):
        scale = magnitude.pow(step / STEPS).clamp(min=1e-4)
        scale = scale / (scale.max() * scale.min()).sqrt()
        kept = [linear.weight.clone() for linear in linears]
        for linear in linears:
            linear.weight.copy_(quantize(linear.weight * scale) / scale)
        loss = recorder.loss(inspected, module)
        for linear, weight in zip(linears, kept, strict=True):
            linear.weight.copy_(weight)
        if loss < least:
            best, least = scale, loss
    return best, least


def clipped(weight, inputs, group, quantize):
    inputs = inputs[:: max(1, len(inputs) // 512)]
    result = weight.clone()
    for start in range(0, weight.shape[1], group):
        columns = slice(start, start + group)
        part, seen = weight[:, columns], inputs[:, columns]
        largest, least = part.abs().max(1, keepdim=True).values, torch.full((len(part),), torch.inf, dtype=part.dtype)
        for shrink in range(SHRINKS):
            limit = largest * (1 - shrink / STEPS)
            tried = part.clamp(-limit, limit)
            errors = (seen @ (quantize(tried) - part).T).square().mean(0)
            better = errors < least
            least[better] = errors[better]
            result[better, columns] = tried[better]
    return result


def reference(model, bits, group):
    """Quantize `model` in place, block after block, each observed in the untouched model; returns the losses."""
    dense = copy.deepcopy(model)
    losses = {}
    for block, untouched in zip(decoder_blocks(model), decoder_blocks(dense), strict=True):
        recorder = Recorder(dense, untouched)
        part = dict(block.module.named_modules())
        steps = plan(part, block.family.gated)
        found = []
        for before, names, inspected in steps:
            linears = [part[name] for name in names]
            inputs = recorder.inputs(names[0])
            scale, loss = best_scale(recorder, inspected, part[inspected], linears, inputs, rounding(bits, group))
            found.append((before, names, scale))
            losses |= {f"{block.name}.{name}": loss for name in names}
        inputs = {name: recorder.inputs(name) for name in part if isinstance(part[name], torch.nn.Linear)}
        for before, names, scale in found:
            divide(part[before], scale)
            for name in names:
                part[name].weight.mul_(scale)
                inputs[name] = inputs[name] / scale
        for name, seen in inputs.items():
            size = group or seen.shape[1]
            quantize = rounding(bits, group)
            if not name.endswith(("q_proj", "k_proj")):
                part[name].weight.copy_(clipped(part[name].weight, seen, size, quantize))
            part[name].weight.copy_(quantize(part[name].weight).float())
        for parameter in block.module.parameters():
            parameter.copy_(parameter.float())
    return losses


def plan(part, gated):
    """(what is divided, what is multiplied, whose output counts), as the authors' code lists them."""
    qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    if not gated:
        return [
            ("self_attn_layer_norm", qkv, "self_attn"),
            ("self_attn.v_proj", ["self_attn.out_proj"], "self_attn.out_proj"),
            ("final_layer_norm", ["fc1"], "fc1"),
            ("fc1", ["fc2"], "fc2"),
        ]
    fused = "mlp.gate_up_proj" in part
    up = "mlp.gate_up_proj" if fused else "mlp.up_proj"
    steps = [("input_layernorm", qkv, "self_attn")]
    if part["self_attn.v_proj"].out_features == part["self_attn.o_proj"].in_features:
        steps.append(("self_attn.v_proj", ["self_attn.o_proj"], "self_attn.o_proj"))
    steps.append(("post_attention_layernorm", [up] if fused else ["mlp.gate_proj", up], "mlp"))
    steps.append((up, ["mlp.down_proj"], "mlp.down_proj"))
    return steps


def divide(module, scale):
    if isinstance(module, torch.nn.Linear):
        module.weight[-len(scale) :] /= scale.unsqueeze(1)
    else:
        module.weight /= scale
    if getattr(module, "bias", None) is not None:
        module.bias[-len(scale) :] /= scale


def rounding(bits, group):
    return lambda weight: rounded(weight, bits, group or weight.shape[1])


def all_heads_llama():
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(3)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.normal_(std=0.15)
    return model


@pytest.mark.parametrize(
    ("family", "bits", "group"),
    [("all heads", 4, 16), ("llama", 3, 8), ("opt", 4, 0), ("glm", 4, 16), ("qwen2", 8, 16), ("mistral-sliding", 4, 0)],
)
def test_scales_ranges_and_codes_are_those_of_the_plain_procedure(tmp_path, family, bits, group):
    model = (all_heads_llama() if family == "all heads" else tiny_model(family)).double()
    expected = copy.deepcopy(model)
    losses = reference(expected, bits, group)
    setting = f"W{bits}A16g{group}" if group else f"W{bits}A16"
    outcome, _ = compress_in_place(model, TOKENS, tmp_path / "blocks", "awq", setting, batch_size=3)
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(
            model.get_parameter(name), parameter, rtol=1e-6, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
        )
    for layer in outcome.layers:
        assert (
            layer.error == pytest.approx(losses[layer.name], rel=1e-3) if layer.name in losses else layer.error is None
        )
