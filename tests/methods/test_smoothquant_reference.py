"""SmoothQuant against a plain transcription of the authors' procedure in float64: one sequence, one row at a time."""

import copy

import pytest
import torch
from transformers import LlamaConfig, MistralConfig, OPTConfig, Qwen2Config

from harness.architectures.blocks import decoder_blocks
from harness.contract import Dtype
from harness.methods.smoothquant import published_alpha
from tests.methods.small_runs import compress_in_place
from tests.support.tiny_checkpoints import tiny_model, tiny_tokens

TOKENS = tiny_tokens(5, 13)


def largest_inputs(model):
    """The largest magnitude of each input channel of each linear, over all the text, in the untouched model."""
    largest = {}

    def note(name):
        def hook(module, arguments):
            rows = arguments[0].reshape(-1, arguments[0].shape[-1])
            for row in rows:
                largest[name] = torch.maximum(largest.get(name, torch.zeros_like(row)), row.abs())

        return hook

    handles = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    for sequence in TOKENS:
        model(sequence.unsqueeze(0))
    for handle in handles:
        handle.remove()
    return largest


def smooth(norm, linears, activations, alpha):
    channels = len(activations)
    scale = torch.ones(channels, dtype=torch.float64)
    for channel in range(channels):
        weight = max(float(linear.weight[:, channel].abs().max()) for linear in linears)
        scale[channel] = max(float(activations[channel]) ** alpha / max(weight, 1e-5) ** (1 - alpha), 1e-5)
    offset = 1 if type(norm).__name__ == "Gemma3RMSNorm" else 0
    norm.weight.copy_((norm.weight + offset) / scale - offset)
    if getattr(norm, "bias", None) is not None:
        norm.bias /= scale
    for linear in linears:
        linear.weight *= scale


def round_rows(weight, bits):
    top = 2 ** (bits - 1) - 1
    for row in weight:
        scale = float((row.abs().max().clamp(min=1e-5) / top).float())
        row.copy_((torch.round(row / scale) * scale).float())


def reference(model, bits, alpha):
    largest = largest_inputs(model)
    for name, linears in {name: part for name, part in model.named_modules() if name.endswith("self_attn")}.items():
        block = model.get_submodule(name.rpartition(".")[0])
        where = name.rpartition(".")[0]
        opt = hasattr(block, "fc1")
        qkv = [linears.q_proj, linears.k_proj, linears.v_proj]
        smooth(block.self_attn_layer_norm if opt else block.input_layernorm, qkv, largest[f"{name}.q_proj"], alpha)
        if opt:
            smooth(block.final_layer_norm, [block.fc1], largest[f"{where}.fc1"], alpha)
        elif hasattr(block.mlp, "gate_up_proj"):
            fused = [block.mlp.gate_up_proj]
            smooth(block.post_attention_layernorm, fused, largest[f"{where}.mlp.gate_up_proj"], alpha)
        else:
            both = [block.mlp.gate_proj, block.mlp.up_proj]
            norm = getattr(block, "pre_feedforward_layernorm", block.post_attention_layernorm)
            smooth(norm, both, largest[f"{where}.mlp.gate_proj"], alpha)
    for block in decoder_blocks(model):
        for linear in block.linears:
            round_rows(linear.module.weight, bits)
        for parameter in block.module.parameters():
            parameter.copy_(parameter.float())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["llama", "mistral-sliding", "qwen2", "qwen3", "gemma3", "glm", "glm4", "opt"])
def test_norms_and_weights_are_those_of_the_plain_procedure(tmp_path, family, bits):
    model = tiny_model(family).double()
    expected = copy.deepcopy(model)
    reference(expected, bits, alpha=0.7)
    compress_in_place(model, TOKENS, tmp_path / "blocks", "smoothquant", f"W{bits}A{bits}", alpha=0.7, batch_size=3)
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(
            model.get_parameter(name), parameter, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("architecture", "config", "alpha", "reason"),
    [
        ("OPTForCausalLM", OPTConfig(), 0.5, "OPT"),
        ("LlamaForCausalLM", LlamaConfig(max_position_embeddings=2048), 0.8, "LLaMA-1"),
        ("LlamaForCausalLM", LlamaConfig(max_position_embeddings=4096), 0.85, "Llama-2 and Llama-3"),
        ("LlamaForCausalLM", LlamaConfig(max_position_embeddings=4096, num_hidden_layers=80), 0.9, "Llama-2-70B"),
        ("LlamaForCausalLM", LlamaConfig(max_position_embeddings=8192, num_hidden_layers=80), 0.85, "8192"),
        ("MistralForCausalLM", MistralConfig(), 0.8, "Mistral"),
        ("Qwen2ForCausalLM", Qwen2Config(), 0.5, "default of the authors' code"),
    ],
)
def test_alpha_is_the_published_one_for_the_model_and_says_why(architecture, config, alpha, reason):
    value, why = published_alpha(architecture, config)
    assert value == alpha
    assert reason in why


@pytest.mark.parametrize("family", ["llama", "opt", "glm"])
def test_a_model_computed_in_half_precision_is_smoothed_alike(tmp_path, family):
    norms = []
    for dtype in (torch.float32, torch.float16):
        model = tiny_model(family).to(dtype)
        compress_in_place(model, TOKENS, tmp_path / str(dtype), "smoothquant", "W8A8", Dtype.FLOAT16)
        blocks = decoder_blocks(model)
        norms.append(
            torch.stack([norm.weight.float() for block in blocks for norm in (block.input_norm, block.mlp_norm)])
        )
    torch.testing.assert_close(*norms, rtol=5e-3, atol=0)
