"""From one packed layout to another: no bit of a code, scale or zero changes, and what cannot be carried is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.checkpoint import open_checkpoint, publish, read_config
from harness.contract import CheckpointFormat, Reason
from harness.errors import BadCheckpoint, Unsupported
from harness.exporting.source import Source
from harness.quantization.weight import QuantizedWeight
from tests.exporting.export_requests import AWQ, DENSE, GPTQ, INT, MODELOPT_AWQ, PACK, export, logits
from tests.support.quantized_weights import Case, case, change_descriptor, publish_quantized
from tests.support.tiny_checkpoints import tiny_tokens

TOKENS = tiny_tokens(2, 24)
FOUR_BIT_PAIRS = [
    (case(PACK, 4, 16, symmetric=False), GPTQ),
    (case(PACK, 4, 16, symmetric=True), GPTQ),
    (case(PACK, 8, 0, symmetric=True), GPTQ),
    (case(PACK, 4, 16, symmetric=False), AWQ),
    (case(PACK, 4, 16, symmetric=True), AWQ),
    (case(GPTQ, 4, 16, symmetric=False), PACK),
    (case(GPTQ, 8, 0, symmetric=True), PACK),
    (case(GPTQ, 4, 16, symmetric=True), AWQ),
    (case(AWQ, 4, 16, symmetric=False), PACK),
    (case(AWQ, 4, 16, symmetric=True), GPTQ),
]


def weights(checkpoint: Path) -> dict[str, QuantizedWeight]:
    with Source(checkpoint) as source:
        return {linear: source.decode(linear) for linear in source.packed_linears}


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys() != set()
    for linear, weight in ours.items():
        for part in ("codes", "scale", "zero"):
            mine, other = getattr(weight, part), getattr(theirs[linear], part)
            assert mine.dtype == other.dtype
            assert torch.equal(mine, other), f"{linear}: {part}"


@pytest.mark.parametrize(("stored", "target"), FOUR_BIT_PAIRS, ids=lambda value: str(value).rpartition("/")[2])
def test_codes_scales_and_zeros_go_there_and_back_bit_for_bit(
    tmp_path: Path, stored: Case, target: CheckpointFormat
) -> None:
    source = tmp_path / "source"
    publish_quantized(source, "llama", stored)
    there, descriptor = export(source, target)
    back, _ = export(there, stored.format)
    assert_same_weights(source, there)
    assert descriptor.exported is not None
    assert descriptor.exported.exact
    original, returned = load_file(source / "model.safetensors"), load_file(back / "model.safetensors")
    assert original.keys() == returned.keys()
    assert all(torch.equal(tensor, returned[name]) for name, tensor in original.items())
    assert read_config(back)["quantization_config"] == read_config(source)["quantization_config"]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "glm", "opt"])
def test_an_exported_checkpoint_computes_the_same_in_every_family(tmp_path: Path, family: str) -> None:
    source = tmp_path / "source"
    publish_quantized(source, family, case(PACK, 4, 16, symmetric=False), shard_size="20KB")
    before = logits(source, TOKENS)
    for target in (GPTQ, AWQ):
        folder, _ = export(source, target)
        assert len(list(folder.glob("*.safetensors"))) == len(list(source.glob("*.safetensors"))) > 1
        assert torch.equal(logits(folder, TOKENS), before)


def test_the_descriptor_keeps_the_parent_and_the_method_and_names_what_was_read(tmp_path: Path) -> None:
    publish_quantized(tmp_path / "source", "llama", case(PACK, 4, 16, symmetric=True))
    source = open_checkpoint(tmp_path / "source")
    folder, descriptor = export(tmp_path / "source", GPTQ)
    assert open_checkpoint(folder, verify=True) == descriptor
    assert (descriptor.parent, descriptor.method) == (source.parent, source.method)
    assert descriptor.exported is not None
    assert (descriptor.exported.source, descriptor.exported.source_format) == (source.digest, PACK)
    assert descriptor.quantization == source.quantization


def test_older_readers_find_the_names_that_transformers_5_no_longer_writes(tmp_path: Path) -> None:
    publish_quantized(tmp_path / "source", "llama", case(PACK, 4, 16, symmetric=True))
    assert not {"rope_theta", "torch_dtype"} & read_config(tmp_path / "source").keys()
    folder, _ = export(tmp_path / "source", AWQ)
    config = read_config(folder)
    assert config["torch_dtype"] == config["dtype"] == "bfloat16"
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]


@pytest.mark.parametrize(
    ("stored", "target", "words", "reason"),
    [
        (case(PACK, 8, 16, symmetric=True), AWQ, "8 bits", Reason.SETTING),
        (case(PACK, 3, 16, symmetric=True), AWQ, "3 bits", Reason.SETTING),
        (case(PACK, 5, 16, symmetric=True), GPTQ, "5 bits", Reason.SETTING),
        (case(PACK, 4, 16, symmetric=True), PACK, "in this layout already", Reason.FORMAT),
        (case(PACK, 4, 16, symmetric=True), INT, "nothing is exported to", Reason.FORMAT),
        (case(INT, 8, 0, symmetric=True, activation_bits=8), GPTQ, "activations of 8 bits", Reason.FORMAT),
        (case(PACK, 4, 16, symmetric=True), MODELOPT_AWQ, "groups of 64 or 128", Reason.SETTING),
    ],
    ids=str,
)
def test_what_a_layout_cannot_hold_is_refused_and_nothing_is_published(
    tmp_path: Path, stored: Case, target: CheckpointFormat, words: str, reason: Reason
) -> None:
    publish_quantized(tmp_path / "source", "llama", stored)
    with pytest.raises(Unsupported, match=words) as refusal:
        export(tmp_path / "source", target)
    assert refusal.value.reason is reason
    assert not list(tmp_path.rglob("artifact"))


@pytest.mark.parametrize("target", [PACK, AWQ])
def test_groups_in_the_order_of_activations_are_refused_with_the_layer(
    tmp_path: Path, target: CheckpointFormat
) -> None:
    publish_quantized(tmp_path / "plain", "llama", case(GPTQ, 4, 16, symmetric=True))
    staging, linear = tmp_path / "staging", "model.layers.1.mlp.up_proj"
    staging.mkdir()
    for path in (tmp_path / "plain").iterdir():
        if path.name != "llmcbench.json":
            (staging / path.name).write_bytes(path.read_bytes())
    tensors = load_file(staging / "model.safetensors")
    tensors[f"{linear}.g_idx"] = tensors[f"{linear}.g_idx"].flip(0).contiguous()
    save_file(tensors, staging / "model.safetensors")
    config = json.loads((staging / "config.json").read_text())
    config["quantization_config"]["desc_act"] = True
    (staging / "config.json").write_text(json.dumps(config))
    descriptor = open_checkpoint(tmp_path / "plain")
    publish(staging, tmp_path / "ordered", lambda files: descriptor.model_copy(update={"files": files}))
    with pytest.raises(Unsupported, match=f"{linear}: .* order of the activations"):
        export(tmp_path / "ordered", target)


def test_a_size_that_does_not_fill_words_is_refused_with_the_layer(tmp_path: Path) -> None:
    """48 inputs: GPTQ's 3-bit codes come in 32s."""
    publish_quantized(tmp_path / "source", "llama", case(PACK, 3, 16, symmetric=True))
    with pytest.raises(Unsupported, match=r"layers\.0\.\S+: gptq needs input sizes") as refusal:
        export(tmp_path / "source", GPTQ)
    assert refusal.value.reason is Reason.SHAPE


def test_zero_points_under_a_descriptor_that_says_symmetric_are_refused_with_the_layer(tmp_path: Path) -> None:
    stored = case(GPTQ, 4, 16, symmetric=False)
    publish_quantized(tmp_path / "source", "llama", stored)
    scheme = read_config(tmp_path / "source")["quantization_config"] | {"sym": True}
    publish_quantized(tmp_path / "half", "llama", stored, quantization_config=scheme)
    said = stored.quantization.model_copy(update={"symmetric": True})
    change_descriptor(tmp_path / "half", tmp_path / "untrue", quantization=said)
    with pytest.raises(BadCheckpoint, match=r"layers\.0\.\S+ has zero points"):
        export(tmp_path / "untrue", PACK)


def test_dense_weights_cannot_be_packed(tmp_path: Path) -> None:
    publish_quantized(tmp_path / "source", "llama", case(PACK, 4, 16, symmetric=True))
    dense, _ = export(tmp_path / "source", DENSE)
    for folder, words in ((tmp_path / "source.dense", "not quantized"), (dense, "simulated")):
        with pytest.raises(Unsupported, match=words):
            export(folder, GPTQ)
