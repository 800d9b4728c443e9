"""Layers of different widths become layers of one width that computes the same, or are refused."""

from pathlib import Path

import pytest
import torch

from harness.architectures.pruned_shapes import LAYERS_KEY
from harness.checkpoint import open_checkpoint, read_config, read_tensors
from harness.contract import LayerWidthsExport
from harness.errors import Unsupported
from tests.exporting.export_requests import DENSE, export, logits
from tests.methods.compress_requests import Requests
from tests.support.tiny_checkpoints import publish_model, tiny_model, tiny_tokens

TOKENS = tiny_tokens(2, 24)


def pruned(folder: Path, family: str, **options: object) -> Path:
    publish_model(folder / "model", tiny_model(family))
    _, artifact, _ = Requests("llm-pruner", folder)("30%", multiple=8, **options)
    return artifact.rename(folder / "pruned")


@pytest.mark.parametrize("family", ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "gemma3", "glm", "opt"])
def test_a_padded_model_computes_what_the_pruned_one_does(tmp_path: Path, family: str) -> None:
    source = pruned(tmp_path, family, export="original", first_layer=1, last_layer=3)
    assert len({tuple(layer.values()) for layer in read_config(source)[LAYERS_KEY]}) > 1
    folder, descriptor = export(source, DENSE, layers=LayerWidthsExport.PADDED)
    assert LAYERS_KEY not in read_config(folder)
    assert any(LAYERS_KEY in note for note in open_checkpoint(source).notes)
    assert not any(LAYERS_KEY in note for note in descriptor.notes)
    torch.testing.assert_close(logits(folder, TOKENS), logits(source, TOKENS), rtol=0, atol=2e-5)
    narrow, wide = open_checkpoint(source), descriptor
    assert wide.exported is not None
    assert (wide.exported.padded, wide.exported.exact) == (True, True)
    assert wide.exported.unpadded_parameter_count == narrow.parameter_count
    dense = open_checkpoint(tmp_path / "model")
    assert wide.parameter_count == dense.parameter_count > narrow.parameter_count
    shapes = {name: entry.shape for name, entry in read_tensors(folder).items()}
    assert shapes == {name: entry.shape for name, entry in read_tensors(tmp_path / "model").items()}
    assert wide.method == "llm-pruner"


def test_layers_that_differ_are_not_called_uniform(tmp_path: Path) -> None:
    source = pruned(tmp_path, "llama", export="original", first_layer=1, last_layer=3)
    with pytest.raises(Unsupported, match=r"layer 1 has .* not of one width"):
        export(source, DENSE, layers=LayerWidthsExport.UNIFORM)


def test_layers_that_are_alike_are_stated_so_that_any_reader_loads_them(tmp_path: Path) -> None:
    """All layers pruned alike, but written layer by layer: three heads do not divide 64, so Mistral stands in."""
    source = pruned(tmp_path, "llama-wide", export="original", first_layer=0, last_layer=3)
    assert LAYERS_KEY in read_config(source)
    folder, descriptor = export(source, DENSE, layers=LayerWidthsExport.UNIFORM)
    assert LAYERS_KEY not in read_config(folder)
    assert descriptor.exported is not None
    assert not descriptor.exported.padded
    assert torch.equal(logits(folder, TOKENS), logits(source, TOKENS))
    assert descriptor.architecture == "MistralForCausalLM"


def test_a_uniform_checkpoint_is_uniform(tmp_path: Path) -> None:
    source = pruned(tmp_path, "llama", export="uniform")
    for layers in (LayerWidthsExport.UNIFORM, LayerWidthsExport.PADDED):
        folder, descriptor = export(source, DENSE, layers=layers)
        assert descriptor.parameter_count == open_checkpoint(source).parameter_count
        assert descriptor.exported is not None
        assert not descriptor.exported.padded
        assert torch.equal(logits(folder, TOKENS), logits(source, TOKENS))
