import importlib
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from harness.checkpoint import publish
from harness.contract import (
    REQUEST,
    CheckpointDescriptor,
    CheckpointFormat,
    Device,
    DeviceKind,
    Dtype,
    Operation,
    Reason,
    Setting,
    operation_module,
)
from harness.errors import BadCheckpoint, Unsupported
from harness.models.loading import load_model, select_device
from tests.support.small_checkpoints import Recorder
from tests.support.small_runs import IMAGES
from tests.support.tiny_checkpoints import publish_model, publish_rows, tiny_model, tiny_tokenizer, tiny_tokens


def test_a_checkpoint_loads_in_float32_on_a_cpu_and_says_why(tmp_path):
    model = tiny_model("llama")
    descriptor = publish_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model", Device())
    assert (loaded.dtype, loaded.device, loaded.descriptor) == (Dtype.FLOAT32, torch.device("cpu"), descriptor)
    assert "cpu" in loaded.dtype_reason
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    tokens = tiny_tokens(1, 9)
    assert torch.equal(loaded.model(tokens).logits, model(tokens).logits)


def test_a_loaded_model_neither_trains_nor_records_gradients(tmp_path):
    publish_model(tmp_path / "model", tiny_model("opt"))
    loaded = load_model(tmp_path / "model", Device())
    assert not any(module.training for module in loaded.model.modules())
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.tokenizer("w0 w1")["input_ids"] == [3, 4]


def test_the_dtype_that_is_asked_for_is_used(tmp_path):
    publish_model(tmp_path / "model", tiny_model("llama"))
    loaded = load_model(tmp_path / "model", Device(), Dtype.BFLOAT16)
    assert loaded.model.lm_head.weight.dtype is torch.bfloat16
    assert "asked for" in loaded.dtype_reason


def test_a_checkpoint_that_lacks_a_weight_is_refused_instead_of_filled_with_random_values(tmp_path):
    publish_model(tmp_path / "whole", tiny_model("llama"))
    descriptor = CheckpointDescriptor.model_validate_json((tmp_path / "whole" / "llmcbench.json").read_bytes())
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "whole" / "model.safetensors", metadata={"format": "pt"})
    publish(tmp_path / "whole", tmp_path / "partial", lambda files: descriptor.model_copy(update={"files": files}))
    with pytest.raises(BadCheckpoint, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(tmp_path / "partial", Device())


def test_a_quantized_format_without_quantized_weights_is_refused(tmp_path):
    publish_model(tmp_path / "model", tiny_model("llama"), format=CheckpointFormat.GPTQ)
    with pytest.raises(BadCheckpoint, match="the descriptor has no quantization"):
        load_model(tmp_path / "model", Device())


def test_an_architecture_outside_transformers_is_refused_before_the_weights_are_read(tmp_path):
    model = tiny_model("llama")
    publish_model(tmp_path / "model", model)
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "lloma"'))
    with pytest.raises(Unsupported, match="lloma") as refusal:
        load_model(tmp_path / "model", Device())
    assert refusal.value.reason is Reason.ARCHITECTURE


SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1}
UNUSABLE = {
    "bloom": transformers.BloomConfig(**SMALL, n_head=2),
    "mpt": transformers.MptConfig(vocab_size=64, d_model=32, n_heads=2, n_layers=1),
    "mamba": transformers.MambaConfig(**SMALL),
    "gpt_oss": transformers.GptOssConfig(**SMALL, num_attention_heads=2, num_key_value_heads=2, num_local_experts=2),
    "gemma3": transformers.Gemma3Config(),
}


@pytest.mark.parametrize("family", UNUSABLE)
@pytest.mark.parametrize("operation", ["load", "evaluate", "compress", "profile", "benchmark"])
def test_an_architecture_that_cannot_be_used_is_unsupported_in_every_operation(
    tmp_path, monkeypatch, family, operation
):
    """Such a checkpoint does not come from a fetch: its config stands where another one was."""
    descriptor = publish_model(tmp_path / "model", tiny_model("llama-tied"))
    (tmp_path / "model" / "config.json").write_text(UNUSABLE[family].to_json_string())
    publish(tmp_path / "model", tmp_path / "odd", lambda files: descriptor.model_copy(update={"files": files}))
    publish_rows(tmp_path / "rows", "wikitext2", [{"text": "w0 w1 w2"}], split="test")
    (tmp_path / "out").mkdir()
    monkeypatch.setenv(
        "LLMCBENCH_IMAGE", str(IMAGES / ("native" if operation == "benchmark" else "wanda") / "image.toml")
    )
    inputs = {
        "checkpoint": str(tmp_path / "odd"),
        "dataset": str(tmp_path / "rows"),
        "calibration": str(tmp_path / "rows"),
    }
    parameters = {
        "evaluate": {"task": "wikitext2"},
        "compress": {
            "method": "wanda",
            "setting": Setting.parse("50%").model_dump(mode="json"),
            "calibration": {"dataset": "wikitext2", "samples": 1, "sequence_length": 8, "seed": 0},
        },
        "profile": {},
        "benchmark": {"backend": "native", "prompt_tokens": 4, "generate_tokens": 2},
    }
    with pytest.raises(Unsupported) as refused:
        if operation == "load":
            load_model(tmp_path / "odd", Device())
        else:
            request = {
                "contract": 1, "id": "t", "operation": operation, "output": str(tmp_path / "out"), "inputs": inputs,
                "parameters": parameters[operation],
            }  # fmt: skip
            module = importlib.import_module(operation_module(Operation(operation)))
            module.run(REQUEST.validate_python(request), Recorder().reporter)
    assert refused.value.reason is Reason.ARCHITECTURE


def test_a_tokenizer_that_reads_nothing_is_refused(tmp_path):
    publish_model(tmp_path / "whole", tiny_model("qwen2"))
    tiny_tokenizer().save_pretrained(tmp_path / "whole")
    descriptor = CheckpointDescriptor.model_validate_json((tmp_path / "whole" / "llmcbench.json").read_bytes())
    publish(tmp_path / "whole", tmp_path / "mixed", lambda files: descriptor.model_copy(update={"files": files}))
    with pytest.raises(BadCheckpoint, match="finds no token"):
        load_model(tmp_path / "mixed", Device())


def test_the_threads_that_are_asked_for_are_set():
    before = torch.get_num_threads()
    try:
        select_device(Device(threads=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_tensor_float_32_is_off_after_a_device_was_selected():
    torch.set_float32_matmul_precision("high")
    select_device(Device())
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_gpu_that_is_not_there_is_unsupported(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unsupported, match="torch finds none") as refusal:
        select_device(Device(kind=DeviceKind.CUDA))
    assert refusal.value.reason is Reason.DEVICE


@pytest.fixture
def gpus(monkeypatch):
    """Makes torch see GPUs of these UUIDs."""

    def seen(*uuids):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=uuids[index]))

    return seen


@pytest.mark.parametrize("uuids", [(), ("GPU-BBBB-2",), ("MIG-cccc-3",)])
def test_the_only_gpu_that_is_seen_is_the_one_that_is_used(gpus, uuids):
    gpus("bbbb-2")
    assert select_device(Device(kind=DeviceKind.CUDA, uuids=uuids)) == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("seen", "asked", "words"),
    [
        (("aaaa-1", "bbbb-2"), ("GPU-bbbb-2",), "sees 2 GPUs"),
        (("aaaa-1", "bbbb-2"), (), "sees 2 GPUs"),
        (("aaaa-1",), ("GPU-bbbb-2",), "sees GPU aaaa-1, and not GPU-bbbb-2"),
        (("aaaa-1", "bbbb-2"), ("GPU-aaaa-1", "GPU-bbbb-2"), "2 GPUs were named"),
    ],
)
def test_where_other_gpus_are_seen_nothing_is_computed(gpus, seen, asked, words):
    gpus(*seen)
    with pytest.raises(Unsupported, match=words) as refusal:
        select_device(Device(kind=DeviceKind.CUDA, uuids=asked))
    assert refusal.value.reason is Reason.DEVICE
