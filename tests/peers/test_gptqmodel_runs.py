"""GPTQModel behind the contract: what it leaves is a checkpoint that the rest of the project can read."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

pytest.importorskip("gptqmodel", reason="runs in the gptqmodel image's environment")

from harness.contract import CheckpointFormat, Dtype, Reason
from harness.errors import Unsupported
from tests.support.tiny_checkpoints import publish_model, tiny_model


@pytest.mark.parametrize(
    ("method", "setting", "options", "farthest"),
    [
        ("gptq", "W4A16g16", {}, 0.5),
        ("gptq", "W4A16g16", {"order": "activation", "symmetric": False}, 0.5),
        ("gptq", "W8A16", {"damp_percent": 0.01}, 0.05),
        ("awq", "W4A16g16", {"symmetric": False}, 0.5),
    ],
)
def test_a_quantized_checkpoint_computes_nearly_what_its_parent_does(
    compress, drift, method, setting, options, farthest
):
    result, artifact, events = compress(f"gptqmodel-{method}", setting, "llama-wide", **options)
    assert 0 < drift(artifact, "llama-wide") < farthest
    assert result.artifact.format is CheckpointFormat(method)
    assert any(note.startswith("gptqmodel 7.") for note in result.artifact.notes)
    assert events[-1] == {"event": "progress", "done": 3, "total": 3, "unit": "layer"}


@pytest.mark.parametrize("family", ["mistral-sliding", "qwen2", "qwen3", "opt"])
def test_every_architecture_that_the_image_lists_can_be_quantized(compress, drift, family):
    _, artifact, _ = compress("gptqmodel-gptq", "W8A16g16", family)
    assert 0 < drift(artifact, family) < 0.05


def test_an_architecture_that_the_library_takes_apart_is_unsupported(compress):
    with pytest.raises(Unsupported, match="gate_up_proj") as refused:
        compress("gptqmodel-gptq", "W4A16g16", "glm")
    assert refused.value.reason is Reason.ARCHITECTURE


def test_the_library_leaves_nothing_in_the_working_folder_and_keeps_the_parents_tokenizer(
    tmp_path, compress, monkeypatch
):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    _, artifact, _ = compress("gptqmodel-gptq", "W4A16g16")
    assert Path.cwd() == here
    assert list(here.iterdir()) == []
    assert (artifact / "tokenizer.json").read_bytes() == (tmp_path / "llama" / "tokenizer.json").read_bytes()
    assert load_file(artifact / "model.safetensors").keys() >= {"model.layers.0.mlp.down_proj.qweight"}


def test_the_same_request_gives_the_same_files(compress):
    first, second = (compress("gptqmodel-gptq", "W4A16g16")[0].artifact for _ in range(2))
    assert first.files == second.files


def test_awq_of_a_float32_checkpoint_is_unsupported(tmp_path, compress):
    publish_model(tmp_path / "llama-wide", tiny_model("llama-wide"), Dtype.FLOAT32)
    with pytest.raises(Unsupported, match="float32") as refused:
        compress("gptqmodel-awq", "W4A16g16", "llama-wide")
    assert refused.value.reason is Reason.DTYPE
