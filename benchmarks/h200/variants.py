"""Checkpoints of a known model's shape as each compression would leave it, with random weights: speed needs no others.

Sizes, layouts, zeros and codes are those of the real thing; values are drawn. So what an engine does with such a
checkpoint costs what it would cost with a real one, and what it answers means nothing.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig

from benchmarks.h200.shapes import (
    SHAPES,
    WEIGHT_STD,
    TensorShapes,
    parameter_count,
    tensor_shapes,
    tokenizer,
    whole_widths,
    write_shards,
)
from harness.architectures.pruned_shapes import LayerWidths, uniform_config
from harness.checkpoint import publish
from harness.contract import CheckpointDescriptor, CheckpointFormat, Dtype, Quantization, Sparsity
from harness.quantization import layouts
from harness.quantization.weight import QuantizedWeight


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
    whole = whole_widths(settings)
    head_size = settings["hidden_size"] // whole.heads
    widths = LayerWidths(
        heads=int(whole.heads * variant.keep),
        key_value_heads=int(whole.key_value_heads * variant.keep),
        intermediate_size=int(whole.intermediate_size * variant.keep),
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
    shards = list(tensor_shapes(config, widths, head_size))
    write_shards(staging, _weights_of(shards, variant, torch.Generator(device).manual_seed(seed)))
    return publish(
        staging,
        folder,
        lambda files: CheckpointDescriptor(
            files=files,
            format=variant.format,
            dtype=Dtype.FLOAT16,
            architecture=config["architectures"][0],
            parameter_count=parameter_count(shards),
            source=f"random weights of the shape of {shape}, seed {seed}",
            method=variant.method,
            setting=variant.setting,
            sparsity=None if variant.zeros is None else Sparsity(pattern=_pattern(name), target=0.5, measured=0.5),
            quantization=variant.quantization,
        ),
    )


def _pattern(name: str) -> str:
    return "2:4" if name == "2-4" else "unstructured"


def _weights_of(
    shards: Iterable[TensorShapes], variant: Variant, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    """The tensors of each shard, as the variant stores them."""
    for shard in shards:
        yield {
            f"{module}.{suffix}": tensor.cpu().contiguous()
            for module, size in shard.items()
            for suffix, tensor in _tensors(module, size, variant, generator).items()
        }


def _tensors(name: str, size: tuple[int, ...], variant: Variant, generator: torch.Generator) -> dict[str, Tensor]:
    device = generator.device
    if len(size) == 1:
        return {"weight": torch.ones(size, dtype=torch.float16, device=device)}
    in_block = name.startswith("model.layers.")
    if in_block and variant.quantization is not None:
        drawn = _random_codes(size, variant.quantization, generator)
        return layouts.encode(variant.format, drawn, torch.float16)
    weight = torch.randn(size, generator=generator, device=device, dtype=torch.float16) * WEIGHT_STD
    return {"weight": variant.zeros(weight, generator) if in_block and variant.zeros is not None else weight}


def _random_codes(size: tuple[int, ...], quantization: Quantization, generator: torch.Generator) -> QuantizedWeight:
    """Uniform codes, and a scale that gives the values the deviation of the dense ones."""
    bits, device = quantization.weight_bits, generator.device
    groups = size[1] // quantization.group_size if quantization.group_size else 1
    scale = WEIGHT_STD * 12**0.5 / 2**bits
    return QuantizedWeight(
        codes=torch.randint(2**bits, size, generator=generator, device=device, dtype=torch.uint8),
        scale=torch.full((size[0], groups), scale, dtype=torch.float16, device=device),
        zero=torch.full((size[0], groups), 2 ** (bits - 1), dtype=torch.uint8, device=device),
        bits=bits,
        symmetric=True,
    )
