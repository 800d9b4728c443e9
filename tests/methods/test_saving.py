import json

import pytest
import torch
from safetensors.torch import load_file

from harness.checkpoint import read_tensors
from harness.errors import BadCheckpoint
from harness.methods.skeleton.saving import write_checkpoint
from tests.support.tiny_checkpoints import publish_model, tiny_model

INDEX = "model.safetensors.index.json"
NAME = "model.layers.1.mlp.up_proj.weight"


def stored_tensors(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def replacing(name, value):
    return {name: lambda: {name: value}}


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_only_the_replaced_tensors_change(tmp_path, shard_size):
    model = tiny_model("llama")
    parent = publish_model(tmp_path / "parent", model, shard_size=shard_size)
    value = torch.full_like(model.get_parameter(NAME), 0.25)
    write_checkpoint(tmp_path / "parent", tmp_path / "child", replacing(NAME, value), "model")
    before, after = stored_tensors(tmp_path / "parent"), stored_tensors(tmp_path / "child")
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {NAME}
    assert torch.equal(after[NAME].float(), value)
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert read_tensors(tmp_path / "parent") == read_tensors(tmp_path / "child")
    others = {name for name in parent.files if not name.endswith(".safetensors")} - {INDEX}
    assert all((tmp_path / "parent" / name).read_bytes() == (tmp_path / "child" / name).read_bytes() for name in others)
    if INDEX in parent.files:
        indices = [json.loads((tmp_path / folder / INDEX).read_text()) for folder in ("parent", "child")]
        assert indices[0]["weight_map"] == indices[1]["weight_map"]
        assert indices[0]["metadata"]["total_size"] == indices[1]["metadata"]["total_size"]


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_a_parameter_can_give_way_to_several_tensors(tmp_path, shard_size):
    publish_model(tmp_path / "parent", tiny_model("llama"), shard_size=shard_size)
    made = {
        NAME.replace("weight", "codes"): torch.ones(48, 4, dtype=torch.int32),
        NAME.replace("weight", "scale"): torch.ones(48, 1),
    }
    config = {"quantization_config": {"quant_method": "none"}}
    write_checkpoint(tmp_path / "parent", tmp_path / "child", {NAME: lambda: made}, "model", config=config)
    before, after = stored_tensors(tmp_path / "parent"), stored_tensors(tmp_path / "child")
    assert after.keys() == before.keys() - {NAME} | made.keys()
    assert all(torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in made.items())
    stated = json.loads((tmp_path / "child" / "config.json").read_text())
    assert stated == json.loads((tmp_path / "parent" / "config.json").read_text()) | config
    if shard_size == "20KB":
        index = json.loads((tmp_path / "child" / INDEX).read_text())
        assert index["weight_map"].keys() == after.keys()
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in after.values())


def test_several_shards_were_really_written(tmp_path):
    publish_model(tmp_path / "parent", tiny_model("llama"), shard_size="20KB")
    index = json.loads((tmp_path / "parent" / INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 2


def test_names_without_the_base_module_are_found(tmp_path):
    model = tiny_model("opt")
    base = model.model
    base.config.architectures = ["OPTForCausalLM"]
    publish_model(tmp_path / "parent", base)
    assert "decoder.layers.0.fc1.weight" in read_tensors(tmp_path / "parent")
    name = "model.decoder.layers.0.fc1.weight"
    value = torch.zeros_like(model.get_parameter(name))
    write_checkpoint(tmp_path / "parent", tmp_path / "child", replacing(name, value), "model")
    assert torch.equal(stored_tensors(tmp_path / "child")["decoder.layers.0.fc1.weight"].float(), value)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [("model.layers.9.mlp.up_proj.weight", (48, 32), "no tensor"), (NAME, (2, 2), "shape")],
)
def test_a_parameter_without_its_tensor_is_refused(tmp_path, name, shape, message):
    publish_model(tmp_path / "parent", tiny_model("llama"))
    with pytest.raises(BadCheckpoint, match=message):
        write_checkpoint(tmp_path / "parent", tmp_path / "child", replacing(name, torch.zeros(shape)), "model")
