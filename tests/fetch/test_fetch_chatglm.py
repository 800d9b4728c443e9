"""A ChatGLM model becomes transformers' GLM with the same logits, and nothing of its repository's code runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.checkpoint import open_checkpoint
from harness.contract import Device, Dtype, Reason, digest_tree
from harness.errors import BadCheckpoint, Unsupported
from harness.models.loading import load_model
from tests.fetch.sentencepiece_files import ModelFile

Fetch = Callable[..., Any]

HEADS, GROUPS, CHANNELS = 4, 2, 8
HIDDEN, FFN, LAYERS, VOCABULARY = 24, 40, 3, 512
REVISION = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": FFN,
    "hidden_size": HIDDEN,
    "kv_channels": CHANNELS,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": GROUPS,
    "num_attention_heads": HEADS,
    "num_layers": LAYERS,
    "original_rope": True,
    "padded_vocab_size": VOCABULARY,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 32,
    "torch_dtype": "float32",
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def random_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    weights = {
        "transformer.embedding.word_embeddings.weight": draw(VOCABULARY, HIDDEN),
        "transformer.rotary_pos_emb.inv_freq": 1 / 10000 ** (torch.arange(0, CHANNELS // 2, 2) / (CHANNELS // 2)),
        "transformer.encoder.final_layernorm.weight": 1 + draw(HIDDEN),
        "transformer.output_layer.weight": draw(VOCABULARY, HIDDEN),
    }
    for index in range(LAYERS):
        rows = (HEADS + 2 * GROUPS) * CHANNELS
        block = {
            "input_layernorm.weight": 1 + draw(HIDDEN),
            "self_attention.query_key_value.weight": draw(rows, HIDDEN),
            "self_attention.query_key_value.bias": draw(rows, scale=1.0),
            "self_attention.dense.weight": draw(HIDDEN, HEADS * CHANNELS),
            "post_attention_layernorm.weight": 1 + draw(HIDDEN),
            "mlp.dense_h_to_4h.weight": draw(2 * FFN, HIDDEN),
            "mlp.dense_4h_to_h.weight": draw(HIDDEN, FFN),
        }
        weights |= {f"transformer.encoder.layers.{index}.{name}": tensor for name, tensor in block.items()}
    return weights


def normalise(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * hidden / torch.sqrt((hidden**2).mean(-1, keepdim=True) + CONFIG["layernorm_epsilon"])


def turn(states: torch.Tensor) -> torch.Tensor:
    """Multiply neighbouring pairs, as complex numbers, by a phase; only in the first half of a head. [s, b, n, c]"""
    length, half = states.shape[0], CHANNELS // 2
    speeds = 10000.0 ** (-torch.arange(0, half, 2, dtype=torch.float32) / half)
    phases = torch.polar(torch.ones(length, half // 2), torch.outer(torch.arange(length), speeds))[:, None, None]
    pairs = torch.view_as_complex(states[..., :half].reshape(*states.shape[:-1], half // 2, 2))
    return torch.cat((torch.view_as_real(pairs * phases).flatten(-2), states[..., half:]), dim=-1)


def attend(mixed: torch.Tensor) -> torch.Tensor:
    """Causal attention of the fused queries, keys and values [s, b, rows], one head after the other."""
    length, batch, _ = mixed.shape
    query, key, value = mixed.split([HEADS * CHANNELS, GROUPS * CHANNELS, GROUPS * CHANNELS], dim=-1)
    query = turn(query.reshape(length, batch, HEADS, CHANNELS))
    key = turn(key.reshape(length, batch, GROUPS, CHANNELS))
    value = value.reshape(length, batch, GROUPS, CHANNELS)
    future = torch.ones(length, length).triu(1).bool()
    heads = []
    for head in range(HEADS):
        group = head // (HEADS // GROUPS)
        scores = torch.einsum("sbc,tbc->bst", query[:, :, head], key[:, :, group]) / CHANNELS**0.5
        shares = scores.masked_fill(future, float("-inf")).softmax(-1)
        heads.append(torch.einsum("bst,tbc->sbc", shares, value[:, :, group]))
    return torch.cat(heads, dim=-1)


def reference_logits(weights: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """ChatGLM2's forward, written down from its published description. tokens: [b, s]; logits: [b, s, vocabulary]."""
    hidden = weights["transformer.embedding.word_embeddings.weight"][tokens].transpose(0, 1)
    for index in range(LAYERS):
        start = f"transformer.encoder.layers.{index}."
        block = {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}
        normed = normalise(hidden, block["input_layernorm.weight"])
        mixed = normed @ block["self_attention.query_key_value.weight"].T + block["self_attention.query_key_value.bias"]
        hidden = hidden + attend(mixed) @ block["self_attention.dense.weight"].T
        inner = normalise(hidden, block["post_attention_layernorm.weight"]) @ block["mlp.dense_h_to_4h.weight"].T
        gated = inner[..., :FFN] * torch.sigmoid(inner[..., :FFN]) * inner[..., FFN:]
        hidden = hidden + gated @ block["mlp.dense_4h_to_h.weight"].T
    hidden = normalise(hidden, weights["transformer.encoder.final_layernorm.weight"])
    return (hidden @ weights["transformer.output_layer.weight"].T).transpose(0, 1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A random ChatGLM2 in two shards with a SentencePiece tokenizer, laid out as its repository is."""
    folder = tmp_path / "chatglm"
    folder.mkdir()
    weights = random_weights()
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[:11], "model-00002-of-00002.safetensors": names[11:]}
    for file, part in shards.items():
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "modeling_chatglm.py").write_text("raise SystemExit('remote code ran')")
    settings = {"tokenizer_class": "ChatGLMTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_chatglm.X", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.model").write_bytes(
        ModelFile(letters="abcdefop shi", merges=("ab", "cd", "▁a", "so")).encode()
    )
    return folder


@pytest.fixture
def fetch_model(fetch: Fetch, model: Path) -> Fetch:
    def perform(**parameters: object) -> Any:
        source = {"kind": "directory", "tree": digest_tree(model)}
        return fetch(source=source, inputs={"source": str(model)}, **parameters)

    return perform


def change(model: Path, **fields: object) -> None:
    document = {**CONFIG, **fields}
    (model / "config.json").write_text(json.dumps({key: value for key, value in document.items() if value != "absent"}))


def test_the_logits_are_those_of_chatglm(fetch_model: Fetch):
    loaded = load_model(fetch_model().folder, Device(threads=1))
    tokens = torch.randint(0, VOCABULARY, (3, 29), generator=torch.Generator().manual_seed(1))
    expected = reference_logits(random_weights(), tokens)
    assert type(loaded.model).__name__ == "GlmForCausalLM"
    assert expected.std() > 0.1
    torch.testing.assert_close(loaded.model(tokens).logits, expected, rtol=1e-4, atol=1e-4)


def test_every_part_of_the_model_matters_to_the_comparison():
    weights, tokens = random_weights(), torch.arange(12)[None]
    expected = reference_logits(weights, tokens)
    for name in weights.keys() - {"transformer.rotary_pos_emb.inv_freq"}:
        assert not torch.allclose(reference_logits(weights | {name: weights[name] * 1.1}, tokens), expected), name


def test_the_descriptor_says_what_was_done(fetch_model: Fetch, model: Path):
    fetched = fetch_model()
    descriptor = open_checkpoint(fetched.folder, verify=True)
    counted = sum(tensor.numel() for name, tensor in random_weights().items() if not name.endswith("inv_freq"))
    assert (descriptor.architecture, descriptor.dtype) == ("GlmForCausalLM", Dtype.FLOAT32)
    assert descriptor.parameter_count == counted
    assert descriptor.source == f"dir:{digest_tree(model)}"
    assert "converted from ChatGLM's layout to GLM's" in descriptor.notes
    assert any("made from the SentencePiece model" in note for note in descriptor.notes)


def test_shards_stay_shards_and_the_source_stays_as_it_was(fetch_model: Fetch, model: Path):
    before = digest_tree(model)
    folder = fetch_model(dtype="bfloat16").folder
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 2
    assert all(load_file(folder / file)[name].dtype is torch.bfloat16 for name, file in index["weight_map"].items())
    assert digest_tree(model) == before


def test_no_trace_of_remote_code_is_left(fetch_model: Fetch):
    folder = fetch_model().folder
    assert not list(folder.glob("*.py"))
    assert all("auto_map" not in path.read_text() for path in folder.glob("*.json"))


def test_the_hub_model_is_converted_too(fetch: Fetch, hub: Any, model: Path):
    hub.add_folder("org/chatglm", model)
    fetched = fetch(source={"kind": "hub", "repository": "org/chatglm", "revision": REVISION})
    tokens = torch.arange(10)[None]
    logits = AutoModelForCausalLM.from_pretrained(fetched.folder)(tokens).logits
    torch.testing.assert_close(logits, reference_logits(random_weights(), tokens), rtol=1e-4, atol=1e-4)
    assert "modeling_chatglm.py" not in hub.downloads


def test_texts_begin_with_the_models_marks_which_are_not_found_inside_words(fetch_model: Fetch):
    folder = fetch_model().folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("philosophic [gMASK]")["input_ids"]
    pieces = len(ModelFile(letters="abcdefop shi", merges=("ab", "cd", "▁a", "so")).pieces)
    assert ids[:2] == [pieces + 1, pieces + 3]
    assert not set(ids[2:]) & set(range(pieces, pieces + 5))
    assert tokenizer.decode(ids[2:]) == "philosophic [gMASK]"
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)


def test_a_tokenizer_file_of_the_source_is_kept(fetch_model: Fetch, model: Path, tiny_model: Path):
    (model / "tokenizer.model").unlink()
    (model / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    assert (fetch_model().folder / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


def test_a_model_without_a_tokenizer_is_refused(fetch_model: Fetch, model: Path):
    (model / "tokenizer.model").unlink()
    with pytest.raises(BadCheckpoint, match=r"neither tokenizer\.json nor tokenizer\.model"):
        fetch_model()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_ratio", 50),
        ("quantization_bit", 4),
        ("multi_query_attention", False),
        ("multi_query_group_num", "absent"),
        ("add_bias_linear", True),
        ("add_qkv_bias", False),
        ("rmsnorm", False),
        ("post_layer_norm", False),
        ("original_rope", False),
        ("apply_residual_connection_post_layernorm", True),
        ("pre_seq_len", 8),
    ],
)
def test_a_variant_that_glm_cannot_express_is_unsupported(fetch_model: Fetch, model: Path, field: str, value: object):
    change(model, **{field: value})
    with pytest.raises(Unsupported, match=f"cannot be converted to GLM: {field} in") as refused:
        fetch_model()
    assert refused.value.reason is Reason.ARCHITECTURE


def test_a_variant_is_refused_before_its_weights_are_downloaded(fetch: Fetch, hub: Any, model: Path):
    change(model, rope_ratio=50)
    hub.add_folder("org/chatglm", model)
    with pytest.raises(Unsupported):
        fetch(source={"kind": "hub", "repository": "org/chatglm", "revision": REVISION})
    assert not [name for name in hub.downloads if name.endswith(".safetensors")]


def test_pickled_weights_are_refused(fetch_model: Fetch, model: Path):
    (model / "model.safetensors.index.json").unlink()
    for path in model.glob("*.safetensors"):
        path.rename(model / f"pytorch_{path.stem}.bin")
    with pytest.raises(BadCheckpoint, match="pickle"):
        fetch_model()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_layers": LAYERS - 1}, "strange to a ChatGLM of 2 layers"),
        ({"num_layers": LAYERS + 1}, "missing or strange to a ChatGLM of 4 layers"),
        ({"multi_query_group_num": 1}, r"query_key_value.* has 64 rows, but config\.json says 48"),
        ({"ffn_hidden_size": FFN + 1}, r"mlp.* is stored as"),
    ],
)
def test_weights_of_another_model_than_the_config_are_refused(
    fetch_model: Fetch, model: Path, fields: dict[str, int], message: str
):
    change(model, **fields)
    with pytest.raises(BadCheckpoint, match=message):
        fetch_model()
