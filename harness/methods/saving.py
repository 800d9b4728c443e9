"""Writing a compressed checkpoint: the parent's files, with some tensors replaced and nothing else changed.

Tensor names, sharding, metadata, tied weights, config and tokenizer stay as they were, since the shards are rewritten
one by one instead of saved anew from the model.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.checkpoint import TensorEntry, read_tensors
from harness.contract import CheckpointDescriptor
from harness.errors import BadCheckpoint


def write_checkpoint(
    source: Path, staging: Path, parent: CheckpointDescriptor, replaced: Mapping[str, Tensor], base_prefix: str
) -> None:
    """Copy the checkpoint `source` into the new folder `staging`, with the parameters `replaced` in their stored dtype.

    `base_prefix` is the model's base module: older checkpoints leave it out of their tensor names.

    Raises:
        BadCheckpoint: a parameter has no tensor of the same shape in the checkpoint.
    """
    staging.mkdir()
    stored = read_tensors(source)
    by_stored_name = {_stored_name(name, value, stored, base_prefix): value for name, value in replaced.items()}
    changed = {stored[name].file for name in by_stored_name}
    for name in parent.files:
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in changed:
            _rewrite(source / name, target, by_stored_name)
        else:
            shutil.copyfile(source / name, target)


def _stored_name(name: str, value: Tensor, stored: Mapping[str, TensorEntry], base_prefix: str) -> str:
    found = name if name in stored else name.removeprefix(f"{base_prefix}.")
    if found not in stored:
        raise BadCheckpoint(f"the checkpoint has no tensor for {name}", hint="fetch the checkpoint again")
    if stored[found].shape != tuple(value.shape):
        raise BadCheckpoint(
            f"{found} has shape {list(stored[found].shape)} in the checkpoint, but {list(value.shape)} in the model",
            hint="config.json and the weights come from different models; fetch the checkpoint again",
        )
    return found


def _rewrite(shard: Path, target: Path, replaced: Mapping[str, Tensor]) -> None:
    with safe_open(shard, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
    for name in tensors.keys() & replaced.keys():
        tensors[name] = replaced[name].to("cpu", tensors[name].dtype).contiguous()
    save_file(tensors, target, metadata=metadata)
