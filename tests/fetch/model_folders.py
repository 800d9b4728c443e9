"""Changes to a model's folder before it is fetched."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

INDEX = "model.safetensors.index.json"


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(model: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> dict[str, torch.Tensor]:
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return weights


def store_in_shards(model: Path, weights: Mapping[str, torch.Tensor], places: Mapping[str, str]) -> None:
    """Every tensor in its own place of `places`, else in the first shard; the index has them all."""
    (model / "model.safetensors").unlink()
    index = {name: places.get(name, "model-1.safetensors") for name in weights}
    for shard in set(index.values()):
        part = {name: weights[name].clone() for name in weights if index[name] == shard}
        save_file(part, model / shard, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in weights.values())
    (model / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))


def edit_index(model: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((model / INDEX).read_text())
    change(index["weight_map"])
    (model / INDEX).write_text(json.dumps(index))
