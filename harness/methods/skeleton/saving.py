"""Writing a compressed checkpoint: the parent's files, with some tensors replaced and nothing else changed.

Tensor names, sharding, metadata, tied weights, config and tokenizer stay as they were, since the shards are rewritten
one by one instead of saved anew from the model. A quantized weight is replaced by the tensors of its layout.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.architectures.blocks import Block
from harness.checkpoint import CONFIG_NAME, INDEX_NAME, TensorEntry, open_checkpoint, read_config, read_tensors
from harness.contract import CheckpointFormat, Quantization, Sparsity
from harness.errors import BadCheckpoint
from harness.methods.base import CompressionContext, Outcome
from harness.methods.skeleton.sequential import BlockSummary
from harness.models.loading import TORCH_DTYPES
from harness.quantization import layouts

Replacement = Callable[[], Mapping[str, Tensor]]
"""Makes the tensors that stand, in the new checkpoint, where a parameter's tensor stood in the old one."""

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def finish(
    context: CompressionContext,
    summary: BlockSummary,
    *,
    checkpoint_format: CheckpointFormat = CheckpointFormat.DENSE,
    sparsity: tuple[str, float] | None = None,
    quantization: Quantization | None = None,
    act_order: bool = False,
    notes: tuple[str, ...] = (),
) -> Outcome:
    """The outcome of a method that worked block by block. `sparsity` is the pattern and the target.

    `act_order`: the groups of some weight are not runs of consecutive inputs.
    """
    measured = None
    if sparsity is not None:
        pattern, target = sparsity
        measured = Sparsity(pattern=pattern, target=target, measured=summary.zeros / summary.weights)
    return Outcome(
        write=lambda staging: _write_blocks(context, staging, checkpoint_format, quantization, act_order=act_order),
        layers=summary.layers,
        notes=(*summary.notes, *notes),
        format=checkpoint_format,
        sparsity=measured,
        quantization=quantization,
        resumed_blocks=summary.resumed,
        resumed_seconds=summary.resumed_seconds,
    )


def _write_blocks(
    context: CompressionContext,
    staging: Path,
    target: CheckpointFormat,
    quantization: Quantization | None,
    *,
    act_order: bool,
) -> None:
    replaced: dict[str, Replacement] = {}
    quantized: set[str] = set()
    for block in context.blocks:
        quantized |= context.finished.facts(block).grids.keys()
        for parameter, _ in block.module.named_parameters():
            name = f"{block.name}.{parameter}"
            linear = name.removesuffix(".weight")
            if linear in quantized:
                replaced[name] = partial(_encode, context, target, block, linear)
            else:
                replaced[name] = partial(_take, context, block, name)
    config: dict[str, Any] = {}
    if target is not CheckpointFormat.DENSE:
        assert quantization is not None  # noqa: S101  a packed layout without bits is a fault of the method
        dense = [name for name, module in context.model.named_modules() if isinstance(module, nn.Linear)]
        ignored = [name for name in dense if name not in quantized]
        scheme = layouts.quantization_config(target, quantization, ignored=ignored, act_order=act_order)
        config = {"quantization_config": scheme}
    write_checkpoint(context.source, staging, replaced, context.model.base_model_prefix, config=config)


def _encode(context: CompressionContext, target: CheckpointFormat, block: Block, linear: str) -> dict[str, Tensor]:
    weight = context.finished.quantized(block, linear)
    encoded = layouts.encode(target, weight, TORCH_DTYPES[context.storage_dtype])
    return {f"{linear}.{suffix}": tensor for suffix, tensor in encoded.items()}


def _take(context: CompressionContext, block: Block, name: str) -> dict[str, Tensor]:
    return {name: context.finished.tensor(block, name)}


def write_checkpoint(
    source: Path,
    staging: Path,
    replaced: Mapping[str, Replacement],
    base_prefix: str,
    *,
    config: Mapping[str, Any] | None = None,
    reshaped: bool = False,
) -> None:
    """Copy the checkpoint `source` into the new folder `staging`, with parameters replaced in their stored dtype.

    `base_prefix` is the model's base module: older checkpoints leave it out of their tensor names. `config` holds the
    keys of config.json that change. `reshaped` allows a replaced parameter another shape.

    Raises:
        BadCheckpoint: a parameter has no tensor in the checkpoint, or one of another shape.
    """
    staging.mkdir()
    stored = read_tensors(source)
    by_stored_name = {_stored_name(name, stored, base_prefix): (name, make) for name, make in replaced.items()}
    changed = {stored[name].file for name in by_stored_name}
    index: dict[str, str] = {}
    size_bytes = 0
    for name in open_checkpoint(source).files:
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in changed:
            written = _rewrite(source / name, target, by_stored_name, stored, reshaped=reshaped)
        elif name.endswith(".safetensors"):
            shutil.copyfile(source / name, target)
            written = _sizes(target)
        else:
            if name not in (CONFIG_NAME, INDEX_NAME):
                shutil.copyfile(source / name, target)
            continue
        index |= dict.fromkeys(written, name)
        size_bytes += sum(written.values())
    if config:
        _write_json(staging / CONFIG_NAME, read_config(source) | dict(config))
    else:
        shutil.copyfile(source / CONFIG_NAME, staging / CONFIG_NAME)
    if (source / INDEX_NAME).is_file():
        _write_json(staging / INDEX_NAME, {"metadata": {"total_size": size_bytes}, "weight_map": index})


def _stored_name(name: str, stored: Mapping[str, TensorEntry], base_prefix: str) -> str:
    found = name if name in stored else name.removeprefix(f"{base_prefix}.")
    if found not in stored:
        raise BadCheckpoint(f"the checkpoint has no tensor for {name}", hint="fetch the checkpoint again")
    return found


def _rewrite(
    shard: Path,
    target: Path,
    replaced: Mapping[str, tuple[str, Replacement]],
    stored: Mapping[str, TensorEntry],
    *,
    reshaped: bool,
) -> dict[str, int]:
    """Write one shard; returns the size in bytes of each of its tensors."""
    tensors: dict[str, Tensor] = {}
    with safe_open(shard, framework="pt") as file:
        metadata = file.metadata()
        for name in file.keys():  # noqa: SIM118  not a dictionary
            if name not in replaced:
                tensors[name] = file.get_tensor(name)
                continue
            parameter, make = replaced[name]
            prefix = len(parameter) - len(name)
            for made, tensor in make().items():
                if made == parameter:
                    _refuse_other_shape(name, tensor, stored[name], reshaped=reshaped)
                    if tensor.is_floating_point():
                        tensor = tensor.to(_DTYPES.get(stored[name].dtype, tensor.dtype))
                tensors[made[prefix:]] = tensor.to("cpu").contiguous()
    save_file(tensors, target, metadata=metadata)
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def _refuse_other_shape(name: str, made: Tensor, stored: TensorEntry, *, reshaped: bool) -> None:
    if not reshaped and stored.shape != tuple(made.shape):
        raise BadCheckpoint(
            f"{name} has shape {list(stored.shape)} in the checkpoint, but {list(made.shape)} in the model",
            hint="config.json and the weights come from different models; fetch the checkpoint again",
        )


def _sizes(shard: Path) -> dict[str, int]:
    with safe_open(shard, framework="pt") as file:
        return {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118  not a dictionary


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
