"""What the adapters of other libraries accept and refuse: nothing here needs the libraries."""

import importlib.metadata

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.architectures.blocks import decoder_blocks
from harness.contract import Reason
from harness.errors import BadRequest, Unsupported
from harness.methods.peers import gptqmodel, llmcompressor
from harness.methods.peers.common import add_companions, library_faults, require, store_float32_as
from tests.support.tiny_checkpoints import publish_model, tiny_model

MODULES = {"llmcompressor": llmcompressor, "gptqmodel": gptqmodel}


@pytest.mark.parametrize("library", MODULES)
def test_the_image_offers_the_adapters_methods_and_each_setting_it_lists_is_accepted(
    library, image_methods, parameters
):
    offered = image_methods(library)
    assert {method.name for method in offered} == set(MODULES[library].METHODS)
    for method in offered:
        for setting in (*method.patterns, method.default_setting):
            MODULES[library].parse(parameters(method.name, setting))


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("llmcompressor-sparsegpt", "W4A16"),
        ("llmcompressor-wanda", "W8A8"),
        ("llmcompressor-gptq", "50%"),
        ("llmcompressor-gptq", "W3A16"),
        ("llmcompressor-gptq", "W8A8g128"),
        ("llmcompressor-awq", "W8A8"),
        ("llmcompressor-smoothquant", "W8A16"),
        ("gptqmodel-gptq", "2:4"),
        ("gptqmodel-awq", "W8A8"),
        ("gptqmodel-gptq", "W4A16g48"),
    ],
)
def test_a_setting_that_the_adapter_does_not_have_is_unsupported(method, setting, parameters):
    module = MODULES[method.partition("-")[0]]
    with pytest.raises(Unsupported) as refused:
        module.parse(parameters(method, setting))
    assert refused.value.reason is Reason.SETTING
    assert refused.value.hint


@pytest.mark.parametrize("library", MODULES)
def test_a_method_that_the_library_does_not_have_here_is_unsupported(library, parameters):
    with pytest.raises(Unsupported, match="offers no method 'omniquant'") as refused:
        MODULES[library].parse(parameters("omniquant", "W4A16"))
    assert refused.value.reason is Reason.METHOD


@pytest.mark.parametrize(
    ("method", "setting", "options", "complaint"),
    [
        ("llmcompressor-gptq", "W4A16", {"act_order": "none"}, "did you mean 'actorder'"),
        ("llmcompressor-gptq", "W4A16", {"actorder": "group"}, "'actorder'"),
        ("llmcompressor-sparsegpt", "50%", {"dampening_frac": 2.0}, "'dampening_frac'"),
        ("llmcompressor-sparsegpt", "2:4", {"block_size": 6}, "not a multiple of 4"),
        ("llmcompressor-wanda", "50%", {"batch_size": 0}, "'batch_size'"),
        ("llmcompressor-awq", "W4A16", {"duo_scaling": "half"}, "'duo_scaling"),
        ("llmcompressor-smoothquant", "W8A8", {"smoothing_strength": "0.5"}, "'smoothing_strength'"),
        ("gptqmodel-gptq", "W4A16", {"damp_percent": 0.0}, "'damp_percent'"),
        ("gptqmodel-awq", "W4A16", {"order": "none"}, "no option 'order'"),
    ],
)
def test_a_wrong_option_is_named(method, setting, options, complaint, parameters):
    module = MODULES[method.partition("-")[0]]
    with pytest.raises(BadRequest, match=complaint):
        module.parse(parameters(method, setting, **options))


def test_the_options_record_the_librarys_defaults(parameters):
    gptq = llmcompressor.parse(parameters("llmcompressor-gptq", "W4A16g128"))
    assert gptq.options.model_dump() == {
        "batch_size": 1,
        "block_size": 128,
        "dampening_frac": 0.01,
        "actorder": "static",
        "symmetric": True,
    }
    other = gptqmodel.parse(parameters("gptqmodel-gptq", "W4A16g128", order="activation"))
    assert other.options.model_dump() == {
        "batch_size": 1,
        "symmetric": True,
        "damp_percent": 0.05,
        "order": "activation",
    }


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("llmcompressor-gptq", "W4A16g128"),
        ("llmcompressor-wanda", "5:10"),
        ("gptqmodel-gptq", "W4A16g128"),
        ("gptqmodel-awq", "W4A16g16"),
    ],
)
def test_shapes_that_the_library_cannot_take_are_refused_before_any_work(method, setting, parameters):
    compressor = MODULES[method.partition("-")[0]].parse(parameters(method, setting))
    with pytest.raises(Unsupported) as refused:
        compressor.check(decoder_blocks(tiny_model("llama")))
    assert refused.value.reason is Reason.SHAPE


def test_a_missing_library_names_the_image_that_has_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(Unsupported, match="llmcompressor is not installed") as refused:
        require("llmcompressor")
    assert "llmcompressor" in refused.value.hint


def test_running_out_of_memory_inside_a_library_stays_what_it_is():
    with pytest.raises(torch.OutOfMemoryError), library_faults("library"):
        raise torch.OutOfMemoryError("none left")


def test_only_float32_tensors_change_their_dtype_when_a_folder_is_finished(tmp_path):
    tensors = {
        "scale": torch.tensor([1.001953125, 3.0], dtype=torch.float16),
        "norm": torch.tensor([1.001953125, 3.0]),
        "codes": torch.tensor([1, 2], dtype=torch.int32),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    store_float32_as(tmp_path, torch.bfloat16)
    stored = load_file(tmp_path / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "scale": torch.float16,
        "norm": torch.bfloat16,
        "codes": torch.int32,
    }
    assert torch.equal(stored["scale"], tensors["scale"])
    assert torch.equal(stored["norm"], tensors["norm"].bfloat16())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_parents_tokenizer_replaces_the_librarys_and_its_weights_do_not(tmp_path):
    publish_model(tmp_path / "parent", tiny_model("llama"))
    staging = tmp_path / "staging"
    staging.mkdir()
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        (staging / name).write_text("the library's")
    add_companions(tmp_path / "parent", staging)
    assert (staging / "tokenizer.json").read_bytes() == (tmp_path / "parent" / "tokenizer.json").read_bytes()
    assert (staging / "config.json").read_text() == "the library's"
    assert (staging / "model.safetensors").read_text() == "the library's"
    assert not (staging / "llmcbench.json").exists()
