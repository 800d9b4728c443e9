"""Quantized weights by rounding to nearest, and published checkpoints that hold them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.checkpoint import publish
from harness.contract import CheckpointDescriptor, CheckpointFormat, Quantization
from harness.quantization import layouts
from harness.quantization.weight import QuantizedWeight
from tests.support.tiny_checkpoints import publish_model, tiny_model

PACK, INT = CheckpointFormat.PACK_QUANTIZED, CheckpointFormat.INT_QUANTIZED
GPTQ, AWQ = CheckpointFormat.GPTQ, CheckpointFormat.AWQ


@dataclass(frozen=True)
class Case:
    """A format with a quantization that it can hold."""

    format: CheckpointFormat
    quantization: Quantization

    def __str__(self) -> str:
        way = "symmetric" if self.quantization.symmetric else "asymmetric"
        return f"{self.format.value.rpartition('/')[2]}-{self.quantization.weight_bits}-{way}"


def case(
    checkpoint_format: CheckpointFormat, weight_bits: int, group_size: int, symmetric: bool, activation_bits: int = 16
) -> Case:
    quantization = Quantization(
        weight_bits=weight_bits, activation_bits=activation_bits, group_size=group_size, symmetric=symmetric
    )
    return Case(checkpoint_format, quantization)


CASES = (
    case(PACK, 4, 16, False),
    case(PACK, 8, 0, True),
    case(PACK, 3, 16, True),
    case(INT, 8, 0, True, activation_bits=8),
    case(GPTQ, 4, 16, True),
    case(GPTQ, 4, 16, False),
    case(GPTQ, 8, 0, True),
    case(AWQ, 4, 16, False),
)


def random_weight(
    rows: int,
    inputs: int,
    bits: int,
    group_size: int = 0,
    *,
    symmetric: bool = True,
    act_order: bool = False,
    seed: int = 0,
) -> QuantizedWeight:
    """Random codes, zeros (0 and the largest among them) and bfloat16 scales; `act_order` shuffles the groups."""
    generator = torch.Generator().manual_seed(seed)
    groups = inputs // group_size if group_size else 1
    zero = torch.randint(0, 2**bits, (rows, groups), generator=generator, dtype=torch.uint8)
    zero[-1, -1], zero[0, 0] = 2**bits - 1, 0
    if symmetric:
        zero.fill_(2 ** (bits - 1))
    group_of = None
    if act_order:
        group_of = (torch.randperm(inputs, generator=generator) // (inputs // groups)).to(torch.int32)
    return QuantizedWeight(
        codes=torch.randint(0, 2**bits, (rows, inputs), generator=generator, dtype=torch.uint8),
        scale=(torch.rand(rows, groups, generator=generator) + 0.5).bfloat16(),
        zero=zero,
        bits=bits,
        symmetric=symmetric,
        group_of=group_of,
    )


def round_to_nearest(weight: Tensor, quantization: Quantization) -> QuantizedWeight:
    """[rows, inputs] quantized with bfloat16 scales from each group's extreme values."""
    rows, inputs = weight.shape
    levels = 2**quantization.weight_bits - 1
    grouped = weight.float().view(rows, -1, quantization.group_size or inputs)
    if quantization.symmetric:
        scale = (2 * grouped.abs().amax(-1) / levels).bfloat16()
        zero = torch.full(scale.shape, 2 ** (quantization.weight_bits - 1), dtype=torch.uint8)
    else:
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scale = ((high - low) / levels).bfloat16()
        zero = (-low / scale.float()).round().clamp(0, levels).to(torch.uint8)
    codes = ((grouped / scale.float()[..., None]).round() + zero[..., None]).clamp(0, levels).to(torch.uint8)
    return QuantizedWeight(codes.view(rows, inputs), scale, zero, quantization.weight_bits, quantization.symmetric)


def publish_quantized(folder: Path, family: str, stored: Case, **changes: object) -> PreTrainedModel:
    """Publish a tiny model with all its decoder's linears quantized; returns the model with the dequantized weights.

    `changes` are keys of config.json, or the keyword `shard_size`.
    """
    model = tiny_model(family)
    dense = folder.with_name(f"{folder.name}.dense")
    parent = publish_model(dense, model, shard_size=str(changes.pop("shard_size", "5GB")))
    staging = folder.with_name(f"{folder.name}.packed")
    shutil.copytree(dense, staging, ignore=shutil.ignore_patterns("llmcbench.json"))
    tensors: dict[str, dict[str, Tensor]] = {}
    for linear in linears_of(decoder_blocks(model)):
        weight = round_to_nearest(linear.module.weight, stored.quantization)
        encoded = layouts.encode(stored.format, weight, torch.bfloat16)
        tensors[f"{linear.name}.weight"] = {f"{linear.name}.{suffix}": part for suffix, part in encoded.items()}
        linear.module.weight.copy_(weight.dequantize(torch.bfloat16))
    index = {}
    for shard in sorted(staging.glob("*.safetensors")):
        kept = {}
        for name, tensor in load_file(shard).items():
            kept |= tensors.get(name, {name: tensor})
        save_file(kept, shard, metadata={"format": "pt"})
        index |= dict.fromkeys(kept, shard.name)
    if (staging / "model.safetensors.index.json").is_file():
        (staging / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config = json.loads((staging / "config.json").read_text())
    outside = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and ".layers." not in name]
    config["quantization_config"] = layouts.quantization_config(stored.format, stored.quantization, ignored=outside)
    (staging / "config.json").write_text(json.dumps(config | changes))
    described = {"format": stored.format, "quantization": stored.quantization, "parent": parent.digest}
    publish(staging, folder, lambda files: parent.model_copy(update={"files": files, **described}))
    return model


def change_descriptor(folder: Path, changed: Path, **changes: object) -> None:
    """Publish the checkpoint `folder` once more as `changed`, with other facts in its descriptor."""
    descriptor = CheckpointDescriptor.model_validate_json((folder / "llmcbench.json").read_bytes())
    staging = changed.with_name(f"{changed.name}.staging")
    shutil.copytree(folder, staging, ignore=shutil.ignore_patterns("llmcbench.json"))
    publish(staging, changed, lambda files: descriptor.model_copy(update={"files": files, **changes}))
