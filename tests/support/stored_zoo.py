"""The zoo's models in every form that a checkpoint can have: quantized to nearest, with zeros, with unequal layers."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.architectures.pruned_shapes import LayerWidths, layers_config
from harness.checkpoint import publish
from harness.contract import CheckpointDescriptor, CheckpointFormat, Quantization, Sparsity
from harness.quantization import layouts
from harness.quantization.weight import QuantizedWeight

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Stored:
    """A layout with the quantization that it holds."""

    format: CheckpointFormat
    quantization: Quantization
    act_order: bool = False

    def __str__(self) -> str:
        way = "symmetric" if self.quantization.symmetric else "asymmetric"
        order = "-by-activations" if self.act_order else ""
        return f"{self.format.value.rpartition('/')[2]}-{self.quantization.weight_bits}-{way}{order}"


def stored(
    checkpoint_format: CheckpointFormat,
    bits: int,
    *,
    symmetric: bool,
    activation_bits: int = 16,
    act_order: bool = False,
) -> Stored:
    group_size = 0 if activation_bits == 8 else 32
    quantization = Quantization(
        weight_bits=bits, activation_bits=activation_bits, group_size=group_size, symmetric=symmetric
    )
    return Stored(checkpoint_format, quantization, act_order)


def round_to_nearest(weight: Tensor, how: Quantization) -> QuantizedWeight:
    rows, inputs = weight.shape
    levels = 2**how.weight_bits - 1
    grouped = weight.float().view(rows, -1, how.group_size or inputs)
    if how.symmetric:
        scale = (2 * grouped.abs().amax(-1) / levels).bfloat16()
        zero = torch.full(scale.shape, 2 ** (how.weight_bits - 1), dtype=torch.uint8)
    else:
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scale = ((high - low) / levels).bfloat16()
        zero = (-low / scale.float()).round().clamp(0, levels).to(torch.uint8)
    codes = ((grouped / scale.float()[..., None]).round() + zero[..., None]).clamp(0, levels).to(torch.uint8)
    return QuantizedWeight(codes.view(rows, inputs), scale, zero, how.weight_bits, how.symmetric)


def quantize(dense: Path, folder: Path, how: Stored) -> Path:
    """Publish `dense` with every linear of its decoder quantized."""

    def change(tensors: Tensors, config: dict[str, Any]) -> Tensors:
        kept: Tensors = {}
        for name, tensor in tensors.items():
            if ".layers." in name and name.endswith("_proj.weight"):
                encoded = layouts.encode(how.format, _rounded(tensor, how), torch.bfloat16)
                kept |= {name.removesuffix("weight") + suffix: part for suffix, part in encoded.items()}
            else:
                kept[name] = tensor
        config["quantization_config"] = layouts.quantization_config(
            how.format, how.quantization, ignored=["lm_head"], act_order=how.act_order
        )
        return kept

    return _republish(dense, folder, change, format=how.format, quantization=how.quantization)


def simulate(dense: Path, folder: Path, how: Quantization) -> Path:
    """Publish `dense` with the linears of its decoder rounded, and stored as dense weights."""

    def change(tensors: Tensors, config: dict[str, Any]) -> Tensors:
        return {
            name: round_to_nearest(tensor, how).dequantize(tensor.dtype) if name.endswith("_proj.weight") else tensor
            for name, tensor in tensors.items()
        }

    return _republish(dense, folder, change, quantization=how.model_copy(update={"simulated": True}))


def with_zeros(dense: Path, folder: Path) -> Path:
    """Publish `dense` with two zeros in every four inputs of the linears of its decoder."""

    def change(tensors: Tensors, config: dict[str, Any]) -> Tensors:
        return {
            name: tensor * torch.tensor([1, 1, 0, 0]).repeat(tensor.shape[1] // 4).to(tensor.dtype)
            if name.endswith("_proj.weight")
            else tensor
            for name, tensor in tensors.items()
        }

    return _republish(dense, folder, change, sparsity=Sparsity(pattern="2:4", target=0.5, measured=0.5))


def with_a_narrow_layer(dense: Path, folder: Path) -> Path:
    """Publish `dense`, a Llama, with half of the feed-forward channels of its first layer."""

    def change(tensors: Tensors, config: dict[str, Any]) -> Tensors:
        full = int(config["intermediate_size"])
        widths = [full // 2] + [full] * (int(config["num_hidden_layers"]) - 1)
        config |= layers_config(
            [
                LayerWidths(
                    heads=config["num_attention_heads"],
                    key_value_heads=config["num_key_value_heads"],
                    intermediate_size=width,
                )
                for width in widths
            ]
        )
        first = "model.layers.0.mlp."
        cut = {
            f"{first}{part}_proj.weight": tensors[f"{first}{part}_proj.weight"][: full // 2] for part in ("gate", "up")
        }
        cut[f"{first}down_proj.weight"] = tensors[f"{first}down_proj.weight"][:, : full // 2]
        return tensors | {name: tensor.contiguous() for name, tensor in cut.items()}

    parent = CheckpointDescriptor.model_validate_json((dense / "llmcbench.json").read_bytes())
    config = json.loads((dense / "config.json").read_text())
    removed = 3 * config["hidden_size"] * (config["intermediate_size"] - config["intermediate_size"] // 2)
    return _republish(dense, folder, change, parameter_count=parent.parameter_count - removed)


def _rounded(weight: Tensor, how: Stored) -> QuantizedWeight:
    if not how.act_order:
        return round_to_nearest(weight, how.quantization)
    order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(0))
    back = order.argsort()
    rounded = round_to_nearest(weight[:, order], how.quantization)
    group_of = (torch.arange(weight.shape[1]) // how.quantization.group_size)[back].to(torch.int32)
    return QuantizedWeight(
        rounded.codes[:, back], rounded.scale, rounded.zero, rounded.bits, rounded.symmetric, group_of
    )


def _republish(
    dense: Path, folder: Path, change: Callable[[Tensors, dict[str, Any]], Tensors], **described: Any
) -> Path:
    """Publish a child of `dense` with what `change` makes of its tensors and its config."""
    staging = folder.with_name(f"{folder.name}.staging")
    shutil.copytree(dense, staging, ignore=shutil.ignore_patterns("llmcbench.json"))
    config = json.loads((staging / "config.json").read_text())
    tensors = change(load_file(dense / "model.safetensors"), config)
    save_file(tensors, staging / "model.safetensors", metadata={"format": "pt"})
    (staging / "config.json").write_text(json.dumps(config))
    parent = CheckpointDescriptor.model_validate_json((dense / "llmcbench.json").read_bytes())
    changes = {**described, "parent": parent.digest}
    publish(staging, folder, lambda files: parent.model_copy(update={"files": files, **changes}))
    return folder
