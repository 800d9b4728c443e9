"""Loading checkpoints of every format, without the libraries that made the formats."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.contract import CheckpointFormat, Device, Dtype, Quantization
from harness.errors import BadCheckpoint
from harness.models import packed
from harness.models.loading import load_model
from tests.support.quantized_weights import AWQ, CASES, GPTQ, INT, PACK, case, change_descriptor, publish_quantized
from tests.support.tiny_checkpoints import FAMILIES, publish_model, tiny_model, tiny_tokens

DEVICE = Device(threads=1)
ONE_EACH = (case(PACK, 4, 16, False), case(INT, 8, 0, True, activation_bits=8), case(GPTQ, 4, 16, True), CASES[-1])


def weights_of(model):
    return dict(model.named_parameters())


@pytest.mark.parametrize(
    ("family", "stored"),
    [
        *((family, ONE_EACH[0]) for family in FAMILIES),
        *((family, one) for family in ("llama", "opt") for one in ONE_EACH[1:]),
    ],
    ids=str,
)
def test_every_family_and_every_format_gives_the_dequantized_weights(tmp_path, family, stored):
    """A format says how a linear is stored, a family which linears there are; of two families every format is read."""
    model = publish_quantized(tmp_path / "model", family, stored)
    loaded = load_model(tmp_path / "model", DEVICE)
    found = weights_of(loaded.model)
    for name, parameter in weights_of(model).items():
        assert torch.equal(found.pop(name), parameter), name
    assert not found
    tokens = tiny_tokens(2, 9)
    same = torch.equal(loaded.model(tokens).logits, model(tokens).logits)
    assert same is (stored.quantization.activation_bits == 16)
    assert loaded.quantization_note.startswith(f"{stored.format.value} weights dequantized to float32 on load")


@pytest.mark.parametrize("stored", CASES, ids=str)
def test_shards_and_chunks_of_rows_change_nothing(tmp_path, stored, monkeypatch):
    monkeypatch.setattr(packed, "_CHUNK_WEIGHTS", 5 * 32)
    model = publish_quantized(tmp_path / "model", "llama-tied", stored, shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    found = weights_of(load_model(tmp_path / "model", DEVICE).model)
    assert all(torch.equal(found[name], parameter) for name, parameter in weights_of(model).items())


def test_the_weights_are_those_of_the_storage_dtype_whatever_the_model_runs_in(tmp_path):
    publish_quantized(tmp_path / "model", "llama", ONE_EACH[0])
    exact = weights_of(load_model(tmp_path / "model", DEVICE).model)
    rounded = weights_of(load_model(tmp_path / "model", DEVICE, Dtype.BFLOAT16).model)
    for name, parameter in rounded.items():
        assert parameter.dtype is torch.bfloat16
        assert torch.equal(parameter.float(), exact[name]), name


def test_the_model_is_ready_for_evaluation(tmp_path):
    publish_quantized(tmp_path / "model", "qwen2", ONE_EACH[2])
    loaded = load_model(tmp_path / "model", DEVICE)
    assert not any(module.training for module in loaded.model.modules())
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.model.config.max_position_embeddings == 64
    assert not hasattr(loaded.model.config, "quantization_config")


def test_a_dense_checkpoint_carries_no_note(tmp_path):
    publish_model(tmp_path / "model", tiny_model("llama"))
    assert load_model(tmp_path / "model", DEVICE).quantization_note is None
    weights_only = Quantization(weight_bits=4, activation_bits=16, simulated=True)
    publish_model(tmp_path / "simulated", tiny_model("llama"), quantization=weights_only)
    assert load_model(tmp_path / "simulated", DEVICE).quantization_note is None


def test_quantized_activations_of_a_dense_checkpoint_are_simulated_and_noted(tmp_path):
    quantization = Quantization(weight_bits=4, activation_bits=4, attention_bits=6, simulated=True)
    model = tiny_model("llama")
    publish_model(tmp_path / "model", model, quantization=quantization)
    loaded = load_model(tmp_path / "model", DEVICE)
    assert loaded.quantization_note == (
        "activations quantized to 4 bits in simulation; queries, keys and values quantized to 6 bits in simulation"
    )
    tokens = tiny_tokens(2, 9)
    assert not torch.allclose(loaded.model(tokens).logits, model(tokens).logits, atol=1e-2)


def test_the_note_names_the_bits_of_the_activations(tmp_path):
    publish_quantized(tmp_path / "model", "opt", ONE_EACH[1])
    loaded = load_model(tmp_path / "model", DEVICE)
    assert loaded.quantization_note == (
        "compressed-tensors/int-quantized weights dequantized to float32 on load;"
        " activations quantized to 8 bits in simulation"
    )


@pytest.mark.parametrize("stored", ONE_EACH, ids=str)
def test_a_descriptor_that_promises_a_format_without_a_quantization_config_is_refused(tmp_path, stored):
    publish_model(tmp_path / "model", tiny_model("llama"), format=stored.format, quantization=stored.quantization)
    with pytest.raises(BadCheckpoint, match=r"config\.json no quantization_config"):
        load_model(tmp_path / "model", DEVICE)


def test_a_quantized_checkpoint_whose_descriptor_says_nothing_of_it_is_refused(tmp_path):
    publish_quantized(tmp_path / "model", "llama", ONE_EACH[3])
    change_descriptor(tmp_path / "model", tmp_path / "dense", format=CheckpointFormat.DENSE)
    with pytest.raises(BadCheckpoint, match="the descriptor says dense"):
        load_model(tmp_path / "dense", DEVICE)
    change_descriptor(tmp_path / "model", tmp_path / "vague", quantization=None)
    with pytest.raises(BadCheckpoint, match="the descriptor has no quantization"):
        load_model(tmp_path / "vague", DEVICE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight_bits": 8}, "bits of the weights: 8 by the descriptor, 4 by config.json"),
        ({"group_size": 0}, "group size: 0 by the descriptor, 16 by config.json"),
        ({"symmetric": True}, "symmetric weights: True by the descriptor, False by config.json"),
        ({"activation_bits": 8}, "bits of the activations: 8 by the descriptor, 16 by config.json"),
    ],
)
def test_a_descriptor_and_a_config_that_differ_are_refused(tmp_path, changes, words):
    publish_quantized(tmp_path / "model", "llama", ONE_EACH[0])
    other = ONE_EACH[0].quantization.model_copy(update=changes)
    change_descriptor(tmp_path / "model", tmp_path / "other", quantization=other)
    with pytest.raises(BadCheckpoint, match=words):
        load_model(tmp_path / "other", DEVICE)


def test_the_config_of_another_format_is_refused(tmp_path):
    publish_quantized(tmp_path / "model", "llama", case(GPTQ, 4, 16, True))
    change_descriptor(tmp_path / "model", tmp_path / "other", format=AWQ)
    with pytest.raises(BadCheckpoint, match="not one of awq that is read here: quant_method"):
        load_model(tmp_path / "other", DEVICE)
    publish_quantized(tmp_path / "packed", "llama", case(PACK, 8, 0, True, activation_bits=8))
    change_descriptor(tmp_path / "packed", tmp_path / "integer", format=INT)
    with pytest.raises(BadCheckpoint, match="pack-quantized with 1 scheme"):
        load_model(tmp_path / "integer", DEVICE)


@pytest.mark.parametrize("suffix", ["qzeros", "scales", "g_idx"])
def test_a_linear_without_one_of_its_tensors_is_refused_by_name(tmp_path, suffix):
    publish_quantized(tmp_path / "model", "llama", ONE_EACH[2])
    shard = tmp_path / "model" / "model.safetensors"
    tensors = load_file(shard)
    del tensors[f"model.layers.1.mlp.up_proj.{suffix}"]
    save_file(tensors, shard, metadata={"format": "pt"})
    publish_again(tmp_path)
    with pytest.raises(BadCheckpoint, match=rf"model\.layers\.1\.mlp\.up_proj has no tensor {suffix}"):
        load_model(tmp_path / "again", DEVICE)


def test_a_linear_whose_tensors_do_not_fit_together_is_refused_by_name(tmp_path):
    publish_quantized(tmp_path / "model", "llama", ONE_EACH[2])
    shard = tmp_path / "model" / "model.safetensors"
    tensors = load_file(shard)
    tensors["model.layers.1.mlp.up_proj.qweight"] = tensors["model.layers.1.mlp.up_proj.qweight"][:-1].contiguous()
    save_file(tensors, shard, metadata={"format": "pt"})
    publish_again(tmp_path)
    with pytest.raises(BadCheckpoint, match=r"model\.layers\.1\.mlp\.up_proj: the gptq tensors .* do not fit together"):
        load_model(tmp_path / "again", DEVICE)


def test_a_linear_that_is_missing_altogether_is_refused(tmp_path):
    publish_quantized(tmp_path / "model", "llama", ONE_EACH[2])
    shard = tmp_path / "model" / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(shard).items() if "layers.1.mlp.up_proj" not in name}
    save_file(tensors, shard, metadata={"format": "pt"})
    publish_again(tmp_path)
    with pytest.raises(BadCheckpoint, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(tmp_path / "again", DEVICE)


def test_a_checkpoint_without_any_quantized_linear_is_refused(tmp_path):
    stored = ONE_EACH[2]
    publish_quantized(tmp_path / "model", "llama", stored)
    publish_model(tmp_path / "unquantized", tiny_model("llama"))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "unquantized" / "config.json").write_text(json.dumps(config))
    quantized = {"format": stored.format, "quantization": stored.quantization}
    change_descriptor(tmp_path / "unquantized", tmp_path / "other", **quantized)
    with pytest.raises(BadCheckpoint, match=r"there is no tensor \*\.qweight"):
        load_model(tmp_path / "other", DEVICE)


def publish_again(folder):
    """Publish what `folder/model` holds now as `folder/again`."""
    change_descriptor(folder / "model", folder / "again")
