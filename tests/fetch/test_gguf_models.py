"""A GGUF file becomes the model that it was written from: logits, configuration, tokens, and what was lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader, GGUFWriter, dequantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.contract import Dtype, Reason, digest_file
from harness.contract.gguf import read_header, read_vocabulary
from harness.errors import BadCheckpoint, BadRequest, Unsupported
from harness.fetch.gguf.tokenizer import check, write_tokenizer
from tests.support.gguf_files import FAMILIES, random_model, write_model
from tests.support.gguf_headers import SCORED, SPELT, add_spelt, finish, spelt_embedding

Fetch = Callable[..., Any]
LINEAR = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "rope_theta": 5e5,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
TOKENS = torch.arange(4, 28).reshape(2, 12)


@pytest.fixture
def fetch_gguf(fetch: Fetch) -> Fetch:
    def perform(path: Path, **parameters: object) -> Any:
        source = {"kind": "gguf", "file": path.name, "sha256": digest_file(path)}
        return fetch(source=source, inputs={"source": str(path.parent)}, **parameters)

    return perform


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(TOKENS % model.config.vocab_size).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_model_that_was_written(fetch_gguf: Fetch, tmp_path: Path, family: str):
    model = random_model(family)
    fetched = fetch_gguf(write_model(tmp_path / "model.gguf", family, model))
    read = AutoModelForCausalLM.from_pretrained(fetched.folder)
    assert fetched.result.artifact.architecture == type(model).__name__
    assert fetched.result.artifact.dtype is Dtype.FLOAT32
    assert not any("dequantized" in note for note in fetched.result.artifact.notes)
    assert read.config.rms_norm_eps == 1e-5
    assert read.config.rope_parameters == model.config.rope_parameters
    assert (logits(read) - logits(model)).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("family", "rotary"),
    [
        ("llama", {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}),
        ("llama", LLAMA3),
        ("gemma3", {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}),
    ],
)
def test_scaled_rotary_embeddings_are_kept(fetch_gguf: Fetch, tmp_path: Path, family: str, rotary: dict[str, Any]):
    model = random_model(family, rope_parameters=rotary)
    fetched = fetch_gguf(write_model(tmp_path / "model.gguf", family, model))
    read = AutoModelForCausalLM.from_pretrained(fetched.folder)
    assert rotary.items() <= read.config.rope_parameters.items()
    assert (logits(read) - logits(model)).abs().max() < 2e-5


def test_quantized_weights_are_the_dequantized_ones_and_the_result_says_so(fetch_gguf: Fetch, tmp_path: Path):
    path = write_model(tmp_path / "model.gguf", "qwen3", random_model("qwen3"), "Q8_0", file_type=7)
    fetched = fetch_gguf(path)
    stored = next(one for one in GGUFReader(path).tensors if one.name == "blk.0.attn_v.weight")
    expected = torch.from_numpy(dequantize(stored.data, stored.tensor_type)).bfloat16()
    weights = load_file(fetched.folder / "model.safetensors")
    assert torch.equal(weights["model.layers.0.self_attn.v_proj.weight"], expected)
    assert "weights dequantized from Q8_0 (tensors: 16 Q8_0), not the original ones, then stored as bfloat16" in (
        fetched.result.artifact.notes
    )


def test_untied_output_is_kept_and_a_dtype_that_is_asked_for_is_used(fetch_gguf: Fetch, tmp_path: Path):
    model = random_model("llama", tie_word_embeddings=False)
    fetched = fetch_gguf(write_model(tmp_path / "model.gguf", "llama", model), dtype="float16")
    weights = load_file(fetched.folder / "model.safetensors")
    assert torch.equal(weights["lm_head.weight"], model.lm_head.weight.half())
    assert fetched.result.artifact.parameter_count == sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab c", ["ab", "▁", "c"]),
        ("abc", ["abc"]),
        (" abc", ["▁ab", "c"]),
        ("a ab", ["a", "▁ab"]),
        ("bc", ["bc"]),
        ("a\n\n\nb", ["a", "\n\n", "\n", "b"]),
        ("é", ["<0xC3>", "<0xA9>"]),
        ("a<eos>b", ["a", "<eos>", "b"]),
        ("a<unk>b", ["a", "<unk>", "b"]),
    ],
)
def test_tokens_of_a_scored_vocabulary(scored: Any, text: str, pieces: list[str]):
    """Of ` abc`, ab is joined first, and then ▁ab, which scores above abc."""
    assert scored.convert_ids_to_tokens(scored(text).input_ids) == ["<bos>", *pieces]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("scored")
    header = read_header(write_model(folder / "model.gguf", "qwen3", random_model("qwen3")))
    write_tokenizer(read_vocabulary(header, len(SCORED)), 64, folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("split", "tokens"),
    [
        ("smollm", ["ab", "1", "2", "Ġab", "bb", "Ġ", "Ġab"]),
        ("gpt-2", ["ab", "1", "2", "Ġab", "bb", "Ġ", "Ġab"]),
        ("llama-bpe", ["ab", "1", "2", "Ġab", "bb", "Ġ", "Ġab"]),
        ("qwen2", ["ab", "1", "2", "Ġab", "bb", "Ġ", "Ġab"]),
    ],
)
def test_tokens_of_a_byte_level_vocabulary(tmp_path: Path, split: str, tokens: list[str]):
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    add_spelt(writer, split)
    spelt_embedding(writer)
    finish(writer)
    vocabulary = read_vocabulary(read_header(tmp_path / "model.gguf"), len(SPELT))
    write_tokenizer(vocabulary, 64, tmp_path / "folder")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    begun = ["<b>"] if split == "llama-bpe" else []
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab12 abbb  ab").input_ids) == [*begun, *tokens]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<b>", "<e>", "<u>")


def test_a_tokenizer_that_merges_in_another_order_is_refused(scored: Any, tmp_path: Path):
    """As transformers' own conversion of Gemma's does."""
    header = read_header(write_model(tmp_path / "model.gguf", "qwen3", random_model("qwen3")))
    vocabulary = read_vocabulary(header, len(SCORED))
    check(scored, vocabulary)
    document = json.loads(scored.backend_tokenizer.to_str())
    document["model"]["merges"].reverse()
    scored.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(BadCheckpoint, match="does not agree with it: of"):
        check(AutoTokenizer.from_pretrained(tmp_path / "other"), vocabulary)


def test_a_tokenizer_without_the_beginning_token_is_refused(scored: Any, tmp_path: Path):
    document = json.loads(scored.backend_tokenizer.to_str())
    document["post_processor"] = None
    scored.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(document))
    header = read_header(write_model(tmp_path / "model.gguf", "qwen3", random_model("qwen3")))
    with pytest.raises(BadCheckpoint, match="not …\\[2"):
        check(AutoTokenizer.from_pretrained(tmp_path / "other"), read_vocabulary(header, len(SCORED)))


def test_a_file_that_changed_since_the_plan_is_refused(fetch: Fetch, tmp_path: Path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    source = {"kind": "gguf", "file": "model.gguf", "sha256": "0" * 64}
    with pytest.raises(BadRequest, match="is not what the plan saw"):
        fetch(source=source, inputs={"source": str(tmp_path)})


def test_damage_and_what_is_not_understood_are_told_apart(fetch_gguf: Fetch, tmp_path: Path):
    model = random_model("qwen3")
    whole = write_model(tmp_path / "whole.gguf", "qwen3", model).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-100])
    with pytest.raises(BadCheckpoint, match=r"cut\.gguf is cut off"):
        fetch_gguf(tmp_path / "cut.gguf")
    strange = write_model(tmp_path / "strange.gguf", "qwen3", model, extra_fields={"qwen3.expert_count": 8})
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(Unsupported, match=r"the field 'qwen3\.expert_count'") as refused:
        fetch_gguf(strange)
    assert refused.value.reason is Reason.ARCHITECTURE
