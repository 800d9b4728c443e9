"""A mistake in a manifest is one sentence that names the line and, where one is near, the right name."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.contract import PackageModel
from orchestrator.errors import BadManifest
from orchestrator.manifest import Manifest, read_manifest
from orchestrator.manifest.model import BenchmarkEntry
from orchestrator.manifest.sources import parse_model

GOOD = """\
schema_version: 1
name: small
models:
  - name: tiny
    source: dir:somewhere
compress:
  - method: sparsegpt
    setting: "2:4"
evaluate:
  tasks: [wikitext2]
  limit: 3
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "manifest.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(BadManifest) as caught:
        read_manifest(write(folder, text))
    assert caught.value.hint
    return caught.value.message


def test_a_good_manifest_is_read_with_its_defaults(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, GOOD))
    assert manifest.compress[0].setting == "2:4"
    assert manifest.evaluate is not None
    assert manifest.evaluate.limit_of("wikitext2") == 3
    assert manifest.device == "auto"


def test_the_digest_follows_the_content_alone(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, GOOD))
    assert read_manifest(write(tmp_path, "# a comment\n" + GOOD)).digest == manifest.digest
    assert read_manifest(write(tmp_path, GOOD.replace("limit: 3", "limit: 4"))).digest != manifest.digest


def test_a_misspelt_field_names_its_line_and_the_nearest_field(tmp_path: Path) -> None:
    message = complaint(tmp_path, GOOD.replace("    setting:", "    seting:"))
    assert "line 8" in message
    assert "'seting'" in message
    assert "did you mean 'setting'" in message


@pytest.mark.parametrize("name", ["org/tiny", "my model", "-tiny", "x" * 81])
def test_a_name_that_no_path_can_have_is_refused_in_words(tmp_path: Path, name: str) -> None:
    message = complaint(tmp_path, GOOD.replace("name: tiny", f'name: "{name}"'))
    assert f"models.0.name: {name!r} is no name: it takes up to 80 letters" in message
    assert "line" in message


def test_a_model_that_is_no_folder_of_safetensors_is_named_for_what_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "model.bin").write_bytes(b"")
    file = folder / "model.gguf"
    for path, words, hint in (
        (file, "model.gguf is a file, and model.gguf is GGUF", f"gguf:{file}"),
        (folder, "has no config.json, and model.gguf is GGUF", f"gguf:{file}"),
        (tmp_path / "model.bin", "model.bin is a file", "safetensors"),
    ):
        with pytest.raises(BadManifest) as caught:
            parse_model(f"dir:{path}")
        assert caught.value.message.startswith(("model folder", str(path)))
        assert words in caught.value.message
        assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("gguf:{}", "is a folder", "dir:PATH"),
        ("gguf:{}/none.gguf", "none.gguf does not exist", "gguf:PATH"),
        ("gguf:{}/other.gguf", "other.gguf cannot be used: other.gguf is no GGUF file", ".gguf"),
        ("gguf:{}/pipe.gguf", "pipe.gguf is not a regular file", ".gguf"),
        ("pypi:some", "is not understood", "pypi:name==version#sha256="),
        ("pypi:some==1#sha256=abc", "is not understood", "64 digits"),
        ("pypi:a==1 + pypi:b==1", "'pypi:a==1', a part of a model, names no sha256", "sha256sum"),
    ],
)
def test_a_source_that_cannot_be_used_says_what_to_write(tmp_path: Path, text: str, words: str, hint: str) -> None:
    (tmp_path / "other.gguf").write_bytes(b"something else")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(BadManifest) as caught:
        parse_model(text.format(tmp_path))
    assert words in caught.value.message
    assert hint in caught.value.hint


def test_packages_with_parts_of_one_file_are_a_list(tmp_path: Path) -> None:
    parts = [f"pypi:Some_Model-part{number}==1.0#sha256={str(number) * 64}" for number in (1, 2)]
    listed = "".join(f"\n      - {part}" for part in parts)
    path = tmp_path / "manifest.yaml"
    path.write_text(GOOD.replace("source: dir:somewhere", f"source:{listed}"), encoding="utf-8")
    source = parse_model(read_manifest(path).models[0].source).source
    assert isinstance(source, PackageModel)
    assert [str(wheel) for wheel in source.wheels] == [
        f"some-model-part{number}==1.0#sha256={str(number) * 64}" for number in (1, 2)
    ]
    assert source.text == " + ".join(part.replace("Some_Model", "some-model") for part in parts)


def test_a_misspelt_section_is_found_at_the_top_level(tmp_path: Path) -> None:
    message = complaint(tmp_path, GOOD.replace("evaluate:", "evalute:"))
    assert "line 9" in message
    assert "did you mean 'evaluate'" in message


@pytest.mark.parametrize("setting", ["2:4", "50%", "W4A16g128", "1:10"])
def test_a_setting_needs_no_quotes(tmp_path: Path, setting: str) -> None:
    assert read_manifest(write(tmp_path, GOOD.replace('"2:4"', setting))).compress[0].setting == setting


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("8", 8),
        ("2024-01-02", "2024-01-02"),
        ("12:30:45", "12:30:45"),
        ("'8'", "8"),
    ],
)
def test_plain_words_are_texts_numbers_or_true_and_false(tmp_path: Path, written: str, read: object) -> None:
    manifest = read_manifest(write(tmp_path, GOOD.replace("evaluate:", f"    options: {{a: {written}}}\nevaluate:")))
    found = manifest.compress[0].options["a"]
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("profile: !!bool maybe", "the tag '!!bool'"),
        ("profile: {macs_tokens: !!int abc}", "the tag '!!int'"),
        ("limits: {memory_gib: !!float abc}", "the tag '!!float'"),
        ("profile: !!timestamp abc", "the tag '!!timestamp'"),
        ("limits: {memory_gib: .inf}", "no number"),
        ("limits: {memory_gib: 1e308}", "no number"),
        (f"limits: {{deadline_seconds: 1{'0' * 5000}}}", "is no int"),
        ("? [a, b]\n: 1", "a key is a list or a mapping"),
        ("? {a: b}\n: 1", "a key is a list or a mapping"),
        ("profile: \x07", "a control character"),
        ('profile: "\\0"', "a control character"),
        ("profile: &a [*a]", "without end"),
    ],
)
def test_what_no_manifest_means_is_refused_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    message = complaint(tmp_path, f"{GOOD}{line}\n")
    assert "line 12" in message
    assert problem in message
    assert len(message) < 300


def test_a_wrong_value_names_its_line(tmp_path: Path) -> None:
    assert "line 11" in complaint(tmp_path, GOOD.replace("limit: 3", "limit: -3"))


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    message = complaint(tmp_path, GOOD + "name: other\n")
    assert "line 12" in message
    assert "twice" in message


def test_broken_yaml_names_its_line(tmp_path: Path) -> None:
    assert "line 2" in complaint(tmp_path, "name: [a\nmodels: }\n")


def test_a_document_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    assert "manifest" in complaint(tmp_path, "- just\n- a list\n")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match="cannot read"):
        read_manifest(tmp_path / "absent.yaml")


def test_options_of_a_backend_that_is_not_benchmarked_are_refused():
    with pytest.raises(ValidationError, match="options are given for vllm"):
        BenchmarkEntry(backends=("transformers",), options={"vllm": {"eager": True}})


DECIDES = GOOD + "benchmark: {backends: [transformers], batch_sizes: [1, 8]}\n"


@pytest.mark.parametrize(
    ("decide", "problem"),
    [
        ("{max_memry: 1GiB}", "unknown field 'max_memry'; did you mean 'max_memory'?"),
        ("{max_memory: 16}", "decide.max_memory: '16' is no amount here; write a number and its unit, such as 16GiB"),
        ("{max_memory: 16gib}", "such as 16GiB"),
        ("{max_loss: 2}", "such as 2%"),
        ("{max_loss: 101%}", "such as 2%"),
        ("{min_speed: -1tokens/s}", "such as 30tokens/s"),
        ("{max_compress_time: 1 hour}", "such as 1h"),
        ("{prefer: {sped: 1}}", "unknown quantity 'sped'; did you mean 'speed'?"),
        ("{prefer: {speed: -1}}", "greater than or equal to 0"),
        ("{prefer: {}}", "no quantity has a weight above 0"),
        ("{backend: transformer}", "which benchmark.backends does not list; did you mean 'transformers'?"),
        ("{batch: 4}", "decide.batch is 4, which benchmark.batch_sizes does not list"),
    ],
)
def test_a_mistake_in_what_is_to_be_decided_by_is_refused(tmp_path: Path, decide: str, problem: str) -> None:
    assert problem in complaint(tmp_path, f"{DECIDES}decide: {decide}\n")


def test_what_is_decided_by_is_kept_as_written_and_is_no_part_of_what_is_asked_for(tmp_path: Path) -> None:
    written = "decide: {max_memory: 1.5 GiB, max_loss: 1%, prefer: {speed: 2}, backend: transformers, batch: 8}\n"
    manifest, without = (read_manifest(write(tmp_path, text)) for text in (DECIDES + written, DECIDES))
    assert manifest.decide.max_memory == "1.5 GiB"
    assert manifest.decide.limits == {"memory": 1.5 * 2**30, "loss": 0.01}
    assert manifest.digest == without.digest
    assert Manifest.model_validate(manifest.model_dump()) == manifest
