"""What would be read differently later is found when a model is fetched: weights, tied embeddings, tokens, config."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from harness.checkpoint import open_checkpoint, read_config, read_tensors
from harness.contract import Reason
from harness.errors import BadCheckpoint, Unsupported
from harness.profiling.profile import weight_bytes
from tests.fetch.model_folders import INDEX, change_weights, edit_index, edit_json, store_in_shards

Fetch = Callable[..., Any]
VOCABULARY, WIDTH = 16, 32


def copy_head(weights: dict[str, torch.Tensor]) -> None:
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_an_equal_copy_of_a_tied_embedding_is_stored_and_counted_once(
    fetch_folder: Fetch, model: Path, dtype: str | None
):
    edit_json(model / "config.json", tie_word_embeddings=True)
    weights = change_weights(model, copy_head)
    once = sum(tensor.numel() for name, tensor in weights.items() if name != "lm_head.weight")
    fetched = fetch_folder(dtype=dtype)
    assert "lm_head.weight" not in read_tensors(fetched.folder)
    assert fetched.result.artifact.parameter_count == once
    assert weight_bytes(fetched.folder) == once * (4 if dtype is None else 2)
    assert "not stored again, since tied to an equal tensor: lm_head.weight" in fetched.result.artifact.notes
    tokens = torch.tensor([[3, 5, 7]])
    with torch.no_grad():
        logits = [
            AutoModelForCausalLM.from_pretrained(path, dtype=dtype or "float32")(tokens).logits
            for path in (model, fetched.folder)
        ]
    assert torch.equal(*logits)


def test_a_shard_that_held_the_copy_alone_goes(fetch_folder: Fetch, model: Path):
    edit_json(model / "config.json", tie_word_embeddings=True)
    weights = change_weights(model, copy_head)
    store_in_shards(model, weights, {"lm_head.weight": "model-2.safetensors"})
    folder = fetch_folder().folder
    index = json.loads((folder / INDEX).read_text())
    assert set(index["weight_map"].values()) == {"model-1.safetensors"}
    assert index["metadata"]["total_size"] == weight_bytes(folder)
    assert not (folder / "model-2.safetensors").exists()


def test_a_head_that_differs_from_its_tied_embedding_is_refused_with_both_ways_out(fetch_folder: Fetch, model: Path):
    edit_json(model / "config.json", tie_word_embeddings=True)
    with pytest.raises(BadCheckpoint, match=r"lm_head\.weight is stored and differs") as refused:
        fetch_folder()
    assert "tie_word_embeddings to false" in refused.value.hint
    assert "take lm_head.weight out" in refused.value.hint


def test_a_published_checkpoint_with_a_tied_head_stored_is_not_opened(fetch_folder: Fetch):
    folder = fetch_folder().folder
    edit_json(folder / "config.json", tie_word_embeddings=True)
    descriptor = json.loads((folder / "llmcbench.json").read_text())
    descriptor["files"]["config.json"]["size_bytes"] = (folder / "config.json").stat().st_size
    (folder / "llmcbench.json").write_text(json.dumps(descriptor))
    with pytest.raises(BadCheckpoint, match=r"is stored although config\.json ties it"):
        open_checkpoint(folder)


def test_whether_the_embeddings_are_tied_is_always_said(fetch_folder: Fetch, model: Path):
    document = json.loads((model / "config.json").read_text())
    document.pop("tie_word_embeddings", None)
    (model / "config.json").write_text(json.dumps(document))
    assert read_config(fetch_folder().folder)["tie_word_embeddings"] is False


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(fetch_folder: Fetch, model: Path, value: float):
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.mlp.up_proj.weight"][3, :4] = value

    change_weights(model, spoil)
    with pytest.raises(BadCheckpoint, match=r"4 of the 2048 weights of model\.layers\.1\.mlp\.up_proj\.weight are NaN"):
        fetch_folder()


def test_a_model_of_nothing_but_nan_is_refused(fetch_folder: Fetch, model: Path):
    change_weights(model, lambda weights: [tensor.fill_(float("nan")) for tensor in weights.values()])
    with pytest.raises(BadCheckpoint, match=r"512 of the 512 weights of lm_head\.weight are NaN or infinite"):
        fetch_folder()


def test_what_the_architecture_does_not_read_need_not_be_finite(fetch_folder: Fetch, model: Path):
    name = "model.layers.0.self_attn.mask"
    change_weights(model, lambda weights: weights.update({name: torch.full((4,), float("inf"))}))
    assert name in read_tensors(fetch_folder().folder)


def test_a_head_that_is_neither_stored_nor_tied_is_missed(fetch_folder: Fetch, model: Path):
    change_weights(model, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(BadCheckpoint, match=r"1 weight\(s\) that the architecture needs .* lm_head\.weight"):
        fetch_folder()


def test_names_without_the_prefix_of_the_body_are_found(fetch_folder: Fetch, model: Path):
    edit_json(model / "config.json", tie_word_embeddings=True)
    weights = {
        name.removeprefix("model."): tensor
        for name, tensor in load_file(model / "model.safetensors").items()
        if name != "lm_head.weight"
    }
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert set(read_tensors(fetch_folder().folder)) == set(weights)


def test_a_tensor_that_the_index_lacks_is_named(fetch_folder: Fetch, model: Path):
    name = "model.layers.0.self_attn.q_proj.weight"
    store_in_shards(model, load_file(model / "model.safetensors"), {"lm_head.weight": "model-2.safetensors"})
    edit_index(model, lambda places: places.pop(name))
    with pytest.raises(BadCheckpoint, match=f"the index does not place them, the first {name} in model-1.safetensors"):
        fetch_folder()


def test_a_tensor_that_its_shard_lacks_is_named(fetch_folder: Fetch, model: Path):
    name = "model.layers.7.mlp.up_proj.weight"
    store_in_shards(model, load_file(model / "model.safetensors"), {"lm_head.weight": "model-2.safetensors"})
    edit_index(model, lambda places: places.update({name: "model-2.safetensors"}))
    with pytest.raises(BadCheckpoint, match=f"not in the shard that the index names, the first {name}"):
        fetch_folder()


def add_tokens(model: Path, **kind: bool) -> None:
    """`more`, as a token beyond the last row of the embedding."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["more"], **kind)
    tokenizer.save_pretrained(model)


def test_a_vocabulary_larger_than_the_embedding_is_refused(fetch_folder: Fetch, model: Path):
    document = json.loads((model / "tokenizer.json").read_text())
    document["model"]["vocab"]["w16"] = VOCABULARY
    (model / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(BadCheckpoint, match="gives tokens up to 16, the model's embedding has 16 rows"):
        fetch_folder()


def test_an_added_token_beyond_the_embedding_is_noted(fetch_folder: Fetch, model: Path):
    add_tokens(model, special_tokens=True)
    assert any("none for the added tokens 'more'" in note for note in fetch_folder().result.artifact.notes)


def test_a_beginning_token_beyond_the_embedding_is_refused(fetch_folder: Fetch, model: Path):
    add_tokens(model, special_tokens=True)
    document = json.loads((model / "tokenizer.json").read_text())
    template = [{"SpecialToken": {"id": "more", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": template,
        "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"more": {"id": "more", "ids": [VOCABULARY], "tokens": ["more"]}},
    }
    (model / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(BadCheckpoint, match="gives tokens up to 16"):
        fetch_folder()


@pytest.mark.parametrize("key", ["quantization_config", "auto_map", "architectures", "llmcbench_layers"])
def test_null_stands_for_a_key_that_is_not_there(fetch_folder: Fetch, model: Path, key: str):
    edit_json(model / "config.json", **{key: None})
    fetched = fetch_folder()
    assert fetched.result.artifact.architecture == "LlamaForCausalLM"
    assert read_config(fetched.folder).get(key) == (["LlamaForCausalLM"] if key == "architectures" else None)


@pytest.mark.parametrize("key", ["head_dim", "num_key_value_heads", "rope_scaling", "sliding_window", "ffn_dim"])
def test_null_where_transformers_takes_it_is_taken(fetch_folder: Fetch, model: Path, key: str):
    change_weights(model, lambda weights: widen_keys(weights) if key == "num_key_value_heads" else None)
    edit_json(model / "config.json", **{key: None})
    folder = fetch_folder().folder
    tokens = torch.tensor([[3, 5, 7]])
    with torch.no_grad():
        logits = [AutoModelForCausalLM.from_pretrained(path)(tokens).logits for path in (model, folder)]
    assert torch.equal(*logits)


def widen_keys(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if name.endswith(("k_proj.weight", "v_proj.weight"))]:
        weights[name] = torch.zeros(WIDTH, WIDTH)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_config", "gptq"),
        ("architectures", "LlamaForCausalLM"),
        ("hidden_size", "many"),
        ("vocab_size", "16"),
        ("num_hidden_layers", 0),
        ("num_attention_heads", 4.5),
        ("tie_word_embeddings", "yes"),
        ("rope_parameters", [1]),
        ("model_type", None),
        ("auto_map", "code.py"),
    ],
)
def test_a_key_of_another_kind_is_named_with_its_value(fetch_folder: Fetch, model: Path, key: str, value: object):
    edit_json(model / "config.json", **{key: value})
    with pytest.raises(BadCheckpoint, match=f"{key} in config.json is {value!r}".replace("[", r"\[")):
        fetch_folder()


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("mamba", "MambaForCausalLM has no sdpa attention"),
        ("bloom", "BloomForCausalLM has no sdpa attention"),
        ("mpt", "MptForCausalLM has no sdpa attention"),
        ("gpt_oss", "GptOssForCausalLM has no sdpa attention"),
        ("gemma3", "Gemma3ForConditionalGeneration keeps its language model within"),
        ("recurrent_gemma", "RecurrentGemmaForCausalLM states no context length"),
    ],
)
def test_an_architecture_that_nothing_here_can_compute_with_is_refused_before_its_weights_are_read(
    fetch_folder: Fetch, model: Path, model_type: str, message: str
):
    (model / "config.json").write_text(AutoConfig.for_model(model_type).to_json_string())
    with pytest.raises(Unsupported, match=message) as refused:
        fetch_folder()
    assert refused.value.reason is Reason.ARCHITECTURE


def test_a_model_that_sees_the_tokens_that_follow_is_refused(fetch_folder: Fetch, model: Path):
    config = AutoConfig.for_model("gemma3_text", use_bidirectional_attention=True)
    (model / "config.json").write_text(config.to_json_string())
    with pytest.raises(Unsupported, match="Gemma3ForCausalLM sees the tokens that follow") as refused:
        fetch_folder()
    assert refused.value.reason is Reason.ARCHITECTURE
