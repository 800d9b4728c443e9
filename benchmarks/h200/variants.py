"""Checkpoints of a known model's shape as each compression would leave it, with random weights: speed needs no others.

Sizes, layouts, zeros and codes are those of the real thing; values are drawn. So what an engine does with such a
checkpoint costs what it would cost with a real one, and what it answers means nothing.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from benchmarks.h200.shapes import SHAPES, tokenizer
from harness.checkpoint import publish
from harness.contract import CheckpointDescriptor, CheckpointFormat, Dtype, Quantization, Sparsity
from harness.models.pruned_shapes import LayerWidths, uniform_config
from harness.quantization import layouts
from harness.quantization.weight import QuantizedWeight

_STD = 0.02


@dataclass(frozen=True)
class Variant:
    """`keep` is the share of heads and channels that is left; `zeros` takes a weight and drops half of its values."""

    method: str | None = None
    setting: str | None = None
    keep: float = 1.0
    zeros: Callable[[Tensor, torch.Generator], Tensor] | None = None
    format: CheckpointFormat = CheckpointFormat.DENSE
    quantization: Quantization | None = None


def _two_of_four(weight: Tensor, generator: torch.Generator) -> Tensor:
    groups = weight.view(weight.shape[0], -1, 4)
    dropped = torch.rand(groups.shape, generator=generator, device=weight.device).argsort(-1)[..., :2]
    return groups.scatter(-1, dropped, 0).view_as(weight)


def _half_of_each_row(weight: Tensor, generator: torch.Generator) -> Tensor:
    """As Wanda leaves a weight: the same number of zeros in each row."""
    order = torch.rand(weight.shape, generator=generator, device=weight.device).argsort(-1)
    return weight.scatter(-1, order[:, : weight.shape[1] // 2], 0)


def _weights(bits: int, activation_bits: int, group_size: int) -> Quantization:
    return Quantization(weight_bits=bits, activation_bits=activation_bits, group_size=group_size)


VARIANTS = {
    "dense": Variant(),
    "structured-50": Variant("llm-pruner", "50%", keep=0.5),
    "2-4": Variant("wanda", "2:4", zeros=_two_of_four),
    "unstructured-50": Variant("wanda", "50%", zeros=_half_of_each_row),
    "w8a16": Variant("gptq", "W8A16g128", format=CheckpointFormat.PACK_QUANTIZED, quantization=_weights(8, 16, 128)),
    "w8a8": Variant("smoothquant", "W8A8", format=CheckpointFormat.INT_QUANTIZED, quantization=_weights(8, 8, 0)),
    "w4a16": Variant("gptq", "W4A16g128", format=CheckpointFormat.PACK_QUANTIZED, quantization=_weights(4, 16, 128)),
}


def make_variant(
    folder: Path, shape: str, name: str, *, layers: int | None, device: torch.device, seed: int = 0
) -> CheckpointDescriptor:
    """Publish a float16 LLaMA of this shape, compressed like variant `name`; `layers` cuts it."""
    variant = VARIANTS[name]
    settings = SHAPES[shape] | ({} if layers is None else {"num_hidden_layers": layers})
    heads, keys = settings["num_attention_heads"], settings["num_key_value_heads"]
    head_size = settings["hidden_size"] // heads
    widths = LayerWidths(
        heads=int(heads * variant.keep),
        key_value_heads=int(keys * variant.keep),
        intermediate_size=int(settings["intermediate_size"] * variant.keep),
    )
    staging = folder.with_name(f"{folder.name}.staging")
    staging.mkdir(parents=True)
    config: dict[str, Any] = LlamaConfig(**settings, dtype="float16", bos_token_id=0, eos_token_id=1).to_dict()
    config |= {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float16", "head_dim": head_size}
    if variant.keep < 1:
        config |= uniform_config(config, widths, head_size)
    if variant.quantization is not None:
        config["quantization_config"] = layouts.quantization_config(variant.format, variant.quantization, ignored=())
    (staging / "config.json").write_text(json.dumps(config, indent=1))
    tokenizer(settings["vocab_size"]).save_pretrained(staging)
    counted = _write_weights(staging, config, widths, head_size, variant, torch.Generator(device).manual_seed(seed))
    return publish(
        staging,
        folder,
        lambda files: CheckpointDescriptor(
            files=files,
            format=variant.format,
            dtype=Dtype.FLOAT16,
            architecture=config["architectures"][0],
            parameter_count=counted,
            source=f"random weights of the shape of {shape}, seed {seed}",
            method=variant.method,
            setting=variant.setting,
            sparsity=None if variant.zeros is None else Sparsity(pattern=_pattern(name), target=0.5, measured=0.5),
            quantization=variant.quantization,
        ),
    )


def _pattern(name: str) -> str:
    return "2:4" if name == "2-4" else "unstructured"


def _write_weights(
    staging: Path,
    config: dict[str, Any],
    widths: LayerWidths,
    head_size: int,
    variant: Variant,
    generator: torch.Generator,
) -> int:
    """One shard a block and one for the ends; returns how many parameters the model has."""
    index: dict[str, str] = {}
    counted = 0
    for number, linears in enumerate(_shards(config, widths, head_size)):
        tensors: dict[str, Tensor] = {}
        for linear, size in linears.items():
            counted += torch.Size(size).numel()
            for suffix, tensor in _tensors(linear, size, variant, generator).items():
                tensors[f"{linear}.{suffix}"] = tensor.cpu().contiguous()
        shard = f"model-{number:05d}.safetensors"
        save_file(tensors, staging / shard, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, shard)
    (staging / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return counted


def _shards(config: dict[str, Any], widths: LayerWidths, head_size: int) -> Iterator[dict[str, tuple[int, ...]]]:
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    queries, keys, middle = widths.heads * head_size, widths.key_value_heads * head_size, widths.intermediate_size
    yield {"model.embed_tokens": (vocabulary, hidden), "model.norm": (hidden,), "lm_head": (vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (middle, hidden),
            "mlp.up_proj": (middle, hidden),
            "mlp.down_proj": (hidden, middle),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        yield {f"model.layers.{layer}.{name}": size for name, size in block.items()}


def _tensors(name: str, size: tuple[int, ...], variant: Variant, generator: torch.Generator) -> dict[str, Tensor]:
    device = generator.device
    if len(size) == 1:
        return {"weight": torch.ones(size, dtype=torch.float16, device=device)}
    in_block = name.startswith("model.layers.")
    if in_block and variant.quantization is not None:
        drawn = _random_codes(size, variant.quantization, generator)
        return layouts.encode(variant.format, drawn, torch.float16)
    weight = torch.randn(size, generator=generator, device=device, dtype=torch.float16) * _STD
    return {"weight": variant.zeros(weight, generator) if in_block and variant.zeros is not None else weight}


def _random_codes(size: tuple[int, ...], quantization: Quantization, generator: torch.Generator) -> QuantizedWeight:
    """Uniform codes, and a scale that gives the values the deviation of the dense ones."""
    bits, device = quantization.weight_bits, generator.device
    groups = size[1] // quantization.group_size if quantization.group_size else 1
    scale = _STD * 12**0.5 / 2**bits
    return QuantizedWeight(
        codes=torch.randint(2**bits, size, generator=generator, device=device, dtype=torch.uint8),
        scale=torch.full((size[0], groups), scale, dtype=torch.float16, device=device),
        zero=torch.full((size[0], groups), 2 ** (bits - 1), dtype=torch.uint8, device=device),
        bits=bits,
        symmetric=True,
    )
