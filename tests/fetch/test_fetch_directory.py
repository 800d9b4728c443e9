"""A local folder becomes a checkpoint that old and new readers load, or is refused with the reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.checkpoint import open_checkpoint
from harness.contract import Dtype, Reason, UnsafeTree, digest_tree
from harness.errors import BadCheckpoint, BadRequest, Unsupported
from tests.fetch.model_folders import INDEX, change_weights, edit_json, store_in_shards

Fetch = Callable[..., Any]


def test_weights_arrive_byte_for_byte(fetch_folder: Fetch, model: Path):
    fetched = fetch_folder()
    assert (fetched.folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_descriptor_says_what_the_model_is(fetch_folder: Fetch, model: Path):
    fetched = fetch_folder()
    descriptor = open_checkpoint(fetched.folder, verify=True)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    assert descriptor == fetched.result.artifact
    assert descriptor.parameter_count == sum(tensor.numel() for tensor in loaded.parameters())
    assert (descriptor.architecture, descriptor.dtype) == ("LlamaForCausalLM", Dtype.FLOAT32)
    assert descriptor.source == f"dir:{digest_tree(model)}"
    assert descriptor.parent is None


def test_same_logits_and_tokens_as_the_source(fetch_folder: Fetch, model: Path):
    folder = fetch_folder().folder
    tokens = AutoTokenizer.from_pretrained(folder)("w3 w5 w7", return_tensors="pt")["input_ids"]
    assert tokens.tolist() == [[3, 5, 7]]
    with torch.no_grad():
        logits = [AutoModelForCausalLM.from_pretrained(path)(tokens).logits for path in (model, folder)]
    assert torch.equal(*logits)


def test_config_has_old_and_new_names(fetch_folder: Fetch, model: Path):
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}
    edit_json(model / "config.json", rope_parameters=rope, _name_or_path="somewhere")
    config = json.loads((fetch_folder().folder / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"], config["rope_theta"]) == ("float32", "float32", 500.0)
    assert config["rope_scaling"] == {"type": "linear", "rope_type": "linear", "factor": 2.0}
    assert config["rope_parameters"] == rope
    assert "_name_or_path" not in config


def test_tokenizer_settings_are_readable_by_transformers_4(fetch_folder: Fetch, model: Path):
    edit_json(model / "tokenizer_config.json", tokenizer_class="TokenizersBackend", extra_special_tokens=["w2"])
    folder = fetch_folder().folder
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["additional_special_tokens"] == ["w2"]
    assert "extra_special_tokens" not in settings
    assert "w2" in AutoTokenizer.from_pretrained(folder).all_special_tokens


def test_tied_weights_count_once(fetch_folder: Fetch, model: Path):
    edit_json(model / "config.json", tie_word_embeddings=True)
    weights = change_weights(model, lambda weights: weights.pop("lm_head.weight"))
    stored = sum(tensor.numel() for tensor in weights.values())
    assert fetch_folder().result.artifact.parameter_count == stored


def test_asked_dtype_is_stored(fetch_folder: Fetch, model: Path):
    fetched = fetch_folder(dtype="bfloat16")
    before, after = load_file(model / "model.safetensors"), load_file(fetched.folder / "model.safetensors")
    assert fetched.result.artifact.dtype is Dtype.BFLOAT16
    assert "converted from float32 to bfloat16" in fetched.result.artifact.notes
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].bfloat16(), tensor) for name, tensor in after.items())


def test_weights_that_overflow_the_asked_dtype_are_not_stored(fetch_folder: Fetch, model: Path):
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = 1e30
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Unsupported, match="too large for float16") as refused:
        fetch_folder(dtype="float16")
    assert refused.value.reason is Reason.DTYPE


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_shards_stay_shards(fetch_folder: Fetch, model: Path, dtype: str | None):
    weights = load_file(model / "model.safetensors")
    store_in_shards(model, weights, dict.fromkeys(sorted(weights)[5:], "model-2.safetensors"))
    fetched = fetch_folder(dtype=dtype)
    index = json.loads((fetched.folder / INDEX).read_text())
    stored = {name: load_file(fetched.folder / name) for name in set(index["weight_map"].values())}
    sizes = [tensor.numel() * tensor.element_size() for shard in stored.values() for tensor in shard.values()]
    assert len(stored) == 2
    assert index["metadata"]["total_size"] == sum(sizes)


def test_only_what_a_checkpoint_needs_is_taken(fetch_folder: Fetch, model: Path):
    (model / "optimizer.pt").write_bytes(b"x")
    (model / "modeling.py").write_text("raise SystemExit")
    fetched = fetch_folder()
    assert set(fetched.result.artifact.files) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not {"optimizer.pt", "modeling.py"} & set(fetched.result.artifact.files)
    assert "left out of the checkpoint: modeling.py, optimizer.pt" in fetched.result.artifact.notes


def test_progress_ends_at_the_whole_size(fetch_folder: Fetch, model: Path):
    steps = [event for event in fetch_folder().events if event["event"] == "progress"]
    size = (model / "model.safetensors").stat().st_size
    assert (steps[-1]["done"], steps[-1]["total"], steps[-1]["unit"]) == (size, size, "bytes")


def test_folder_changed_since_the_plan_is_refused(fetch: Fetch, model: Path):
    with pytest.raises(BadRequest, match="not what the plan saw"):
        fetch(source={"kind": "directory", "tree": "0" * 64}, inputs={"source": str(model)})


def test_request_without_the_input_is_refused(fetch: Fetch):
    with pytest.raises(BadRequest, match="needs the input 'source'"):
        fetch(source={"kind": "directory", "tree": "0" * 64})


def test_linked_files_are_refused_with_a_remedy(fetch: Fetch, model: Path):
    (model / "model.safetensors").rename(model.parent / "blob")
    (model / "model.safetensors").symlink_to(model.parent / "blob")
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors") as refused:
        fetch(source={"kind": "directory", "tree": "0" * 64}, inputs={"source": str(model)})
    assert "cp -rL" in refused.value.hint


def test_pickled_weights_are_refused(fetch_folder: Fetch, model: Path):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(BadCheckpoint, match=r"pickle \(pytorch_model\.bin\)"):
        fetch_folder()


def test_model_without_tokenizer_is_refused(fetch_folder: Fetch, model: Path):
    (model / "tokenizer.json").unlink()
    with pytest.raises(BadCheckpoint, match="has no tokenizer"):
        fetch_folder()


def test_weights_of_another_shape_than_the_config_are_refused(fetch_folder: Fetch, model: Path):
    edit_json(model / "config.json", vocab_size=32)
    with pytest.raises(BadCheckpoint, match=r"stored as \(16, 32\), but config.json says \(32, 32\)"):
        fetch_folder()


def test_config_that_describes_no_model_is_refused(fetch_folder: Fetch, model: Path):
    edit_json(model / "config.json", hidden_size="many")
    with pytest.raises(BadCheckpoint, match=r"hidden_size in config\.json is .many."):
        fetch_folder()


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"model_type": "novel", "auto_map": {"AutoConfig": "c.C"}}, Reason.ARCHITECTURE, "repository's own code"),
        ({"model_type": "novel"}, Reason.ARCHITECTURE, "not known to transformers"),
        ({"model_type": "bert", "architectures": ["BertForPreTraining"]}, Reason.ARCHITECTURE, "not a causal"),
        ({"architectures": ["LlamaForSequenceClassification"]}, Reason.ARCHITECTURE, "not a causal"),
        ({"quantization_config": {"quant_method": "gptq"}}, Reason.FORMAT, r"quantized already \(gptq\)"),
    ],
)
def test_models_outside_the_project_are_unsupported(
    fetch_folder: Fetch, model: Path, changes: dict[str, object], reason: Reason, message: str
):
    edit_json(model / "config.json", **changes)
    with pytest.raises(Unsupported, match=message) as refused:
        fetch_folder()
    assert refused.value.reason is reason


def test_remote_code_is_dropped_where_transformers_has_the_model(fetch_folder: Fetch, model: Path):
    edit_json(model / "config.json", auto_map={"AutoConfig": "evil.Config"})
    edit_json(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    fetched = fetch_folder()
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((fetched.folder / name).read_text())
        assert any(name in note for note in fetched.result.artifact.notes)


def test_quantized_integers_are_not_taken_for_weights(fetch_folder: Fetch, model: Path):
    weights = load_file(model / "model.safetensors")
    save_file({name: tensor.to(torch.int8) for name, tensor in weights.items()}, model / "model.safetensors")
    with pytest.raises(Unsupported, match="stored as I8") as refused:
        fetch_folder()
    assert refused.value.reason is Reason.DTYPE


DEEP = "[" * 200_000


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", DEEP, "config.json is not valid JSON"),
        ("config.json", '{"model_type": "llama", "rope_scaling": {"x": ' + DEEP, "config.json is not valid JSON"),
        ("tokenizer.json", DEEP, "the tokenizer cannot be loaded"),
        ("tokenizer_config.json", DEEP, "tokenizer_config.json is not valid JSON"),
    ],
)
def test_json_of_any_depth_is_refused(fetch_folder: Fetch, model: Path, name: str, content: str, words: str):
    (model / name).write_text(content)
    with pytest.raises(BadCheckpoint, match=words):
        fetch_folder()


@pytest.mark.parametrize(
    ("key", "value"), [("num_hidden_layers", 10_000_000), ("vocab_size", 10**12), ("hidden_size", 10**12)]
)
def test_sizes_that_no_model_has_are_refused_before_anything_is_made_of_them(
    fetch_folder: Fetch, model: Path, key: str, value: int
):
    edit_json(model / "config.json", **{key: value})
    with pytest.raises(BadCheckpoint, match=f"{key} in config.json is {value}: Input should be less than"):
        fetch_folder()


@pytest.mark.parametrize("name", ["odd\x1b[2J", "odd\nline", "odd\udcff"])
def test_a_folder_with_a_name_that_cannot_be_shown_is_refused(fetch_folder: Fetch, model: Path, name: str):
    (model / name).touch()
    with pytest.raises(UnsafeTree, match="holds the control character"):
        fetch_folder()
