import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import publish_model, tiny_model

from harness.checkpoint import read_tensors
from harness.errors import BadCheckpoint
from harness.methods.saving import write_checkpoint

NAME = "model.layers.1.mlp.up_proj.weight"


def stored_tensors(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_only_the_replaced_tensors_change(tmp_path, shard_size):
    model = tiny_model("llama")
    parent = publish_model(tmp_path / "parent", model, shard_size=shard_size)
    value = torch.full_like(model.get_parameter(NAME), 0.25)
    write_checkpoint(tmp_path / "parent", tmp_path / "child", parent, {NAME: value}, "model")
    before, after = stored_tensors(tmp_path / "parent"), stored_tensors(tmp_path / "child")
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {NAME}
    assert torch.equal(after[NAME].float(), value)
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert read_tensors(tmp_path / "parent") == read_tensors(tmp_path / "child")
    others = {name for name in parent.files if not name.endswith(".safetensors")}
    assert all((tmp_path / "parent" / name).read_bytes() == (tmp_path / "child" / name).read_bytes() for name in others)


def test_several_shards_were_really_written(tmp_path):
    publish_model(tmp_path / "parent", tiny_model("llama"), shard_size="20KB")
    index = json.loads((tmp_path / "parent" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2


def test_names_without_the_base_module_are_found(tmp_path):
    model = tiny_model("opt")
    base = model.model
    base.config.architectures = ["OPTForCausalLM"]
    parent = publish_model(tmp_path / "parent", base)
    assert "decoder.layers.0.fc1.weight" in read_tensors(tmp_path / "parent")
    name = "model.decoder.layers.0.fc1.weight"
    value = torch.zeros_like(model.get_parameter(name))
    write_checkpoint(tmp_path / "parent", tmp_path / "child", parent, {name: value}, "model")
    assert torch.equal(stored_tensors(tmp_path / "child")["decoder.layers.0.fc1.weight"].float(), value)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [("model.layers.9.mlp.up_proj.weight", (48, 32), "no tensor"), (NAME, (2, 2), "shape")],
)
def test_a_parameter_without_its_tensor_is_refused(tmp_path, name, shape, message):
    parent = publish_model(tmp_path / "parent", tiny_model("llama"))
    with pytest.raises(BadCheckpoint, match=message):
        write_checkpoint(tmp_path / "parent", tmp_path / "child", parent, {name: torch.zeros(shape)}, "model")
