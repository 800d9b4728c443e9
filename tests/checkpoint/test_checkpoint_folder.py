"""A checkpoint folder is taken for what its descriptor says, or refused with the reason."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.checkpoint import (
    inspect_foreign,
    open_checkpoint,
    open_dataset,
    publish,
    read_rows,
    read_tensors,
)
from harness.contract import (
    DESCRIPTOR_NAME,
    CheckpointDescriptor,
    CheckpointFormat,
    DatasetDescriptor,
    Dtype,
    FileEntry,
    digest_file,
)
from harness.errors import BadCheckpoint, BadRequest


def describe(files: dict[str, FileEntry]) -> CheckpointDescriptor:
    return CheckpointDescriptor(
        files=files,
        format=CheckpointFormat.DENSE,
        dtype=Dtype.FLOAT32,
        architecture="LlamaForCausalLM",
        parameter_count=6,
        source="test",
    )


def write_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}, folder / "model.safetensors")
    return folder


def write_sharded(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for number, name in enumerate(("a", "b"), start=1):
        save_file({name: np.zeros((2, number), dtype=np.float32)}, folder / f"model-0000{number}-of-00002.safetensors")
    place = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Path:
    publish(write_model(tmp_path / "staging"), tmp_path / "artifact", describe)
    return tmp_path / "artifact"


def test_what_was_published_opens_and_verifies(published: Path):
    descriptor = open_checkpoint(published, verify=True)
    assert descriptor.files["model.safetensors"].sha256 == digest_file(published / "model.safetensors")
    assert set(descriptor.files) == {"config.json", "model.safetensors"}


def test_descriptor_file_has_the_digest_of_the_descriptor(published: Path):
    assert digest_file(published / DESCRIPTOR_NAME) == open_checkpoint(published).digest


def test_publication_leaves_no_staging_folder(tmp_path: Path, published: Path):
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_publication_never_replaces_an_artifact(tmp_path: Path, published: Path):
    with pytest.raises(BadRequest, match="exists already"):
        publish(write_model(tmp_path / "again"), published, describe)


def test_publication_refuses_what_opening_would_refuse(tmp_path: Path):
    staging = write_model(tmp_path / "staging")
    (staging / "extra.bin").write_bytes(b"pickle")
    with pytest.raises(BadCheckpoint, match=r"extra\.bin is a pickle"):
        publish(staging, tmp_path / "artifact", describe)
    assert not (tmp_path / "artifact").exists()


def test_altered_bytes_of_the_same_size_are_found_by_verification_only(published: Path):
    config = published / "config.json"
    config.write_text(config.read_text().replace("llama", "LLAMA"))
    assert open_checkpoint(published).parameter_count == 6
    with pytest.raises(BadCheckpoint, match=r"config\.json differs"):
        open_checkpoint(published, verify=True)


def test_changed_size_is_found_without_verification(published: Path):
    (published / "config.json").write_text("{}")
    with pytest.raises(BadCheckpoint, match=r"config\.json has 2 bytes, its descriptor says 23"):
        open_checkpoint(published)


def test_missing_file_is_named(published: Path):
    (published / "config.json").unlink()
    with pytest.raises(BadCheckpoint, match=r"config\.json is missing"):
        open_checkpoint(published)


def test_unlisted_file_is_named(published: Path):
    (published / "notes.txt").write_text("hello")
    with pytest.raises(BadCheckpoint, match=r"notes\.txt is not listed"):
        open_checkpoint(published)


@pytest.mark.parametrize("target", ["config.json", "/etc/hostname"])
def test_symbolic_links_are_refused(published: Path, target: str):
    (published / "link.json").symlink_to(target)
    with pytest.raises(BadCheckpoint, match=r"link\.json is a symbolic link"):
        open_checkpoint(published)


def test_special_files_are_refused(published: Path):
    os.mkfifo(published / "pipe")
    with pytest.raises(BadCheckpoint, match="pipe is not a regular file"):
        open_checkpoint(published)


def test_folder_without_descriptor_points_at_fetch(tmp_path: Path):
    with pytest.raises(BadCheckpoint) as refused:
        open_checkpoint(write_model(tmp_path / "model"))
    assert "dir:" in refused.value.hint


def test_invalid_descriptor_is_refused(published: Path):
    (published / DESCRIPTOR_NAME).write_text("{}")
    with pytest.raises(BadCheckpoint, match="not a valid descriptor"):
        open_checkpoint(published)


def test_listed_pickle_is_refused(published: Path):
    (published / "weights.pt").write_bytes(b"x")
    descriptor = open_checkpoint_document(published)
    descriptor["files"]["weights.pt"] = {"size_bytes": 1, "sha256": digest_file(published / "weights.pt")}
    (published / DESCRIPTOR_NAME).write_text(json.dumps(descriptor))
    with pytest.raises(BadCheckpoint, match=r"weights\.pt is a pickle") as refused:
        open_checkpoint(published)
    assert "safetensors" in refused.value.hint


def open_checkpoint_document(folder: Path) -> dict:
    return json.loads((folder / DESCRIPTOR_NAME).read_text())


@pytest.mark.parametrize("keep", [4, 40, -1])
def test_truncated_weights_are_refused(tmp_path: Path, keep: int):
    weights = write_model(tmp_path / "model") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors is truncated"):
        inspect_foreign(tmp_path / "model")


def test_shards_are_read_through_the_index(tmp_path: Path):
    tensors = read_tensors(write_sharded(tmp_path / "model"))
    assert {name: entry.shape for name, entry in tensors.items()} == {"a": (2, 1), "b": (2, 2)}
    assert tensors["b"].file == "model-00002-of-00002.safetensors"
    assert tensors["b"].dtype == "F32"


def test_missing_shard_is_named(tmp_path: Path):
    folder = write_sharded(tmp_path / "model")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match=r"shard model-00002-of-00002\.safetensors is missing"):
        inspect_foreign(folder)


def test_tensor_absent_from_its_shard_is_named(tmp_path: Path):
    folder = write_sharded(tmp_path / "model")
    save_file({"c": np.zeros(1, dtype=np.float32)}, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(BadCheckpoint, match="the first b"):
        inspect_foreign(folder)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "model.bin", 3])
def test_index_cannot_point_out_of_the_folder_or_at_a_pickle(tmp_path: Path, shard: object):
    folder = write_sharded(tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(BadCheckpoint, match="no safetensors file of this folder"):
        inspect_foreign(folder)


def test_pickled_weights_are_refused_by_name(tmp_path: Path):
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadCheckpoint, match=r"pytorch_model\.bin"):
        inspect_foreign(folder)


def test_pickle_beside_safetensors_is_left_out(tmp_path: Path):
    folder = write_model(tmp_path / "model")
    (folder / "optimizer.pt").write_bytes(b"x")
    (folder / "README.md").write_text("hello")
    foreign = inspect_foreign(folder)
    assert foreign.left_out == ("optimizer.pt",)
    assert foreign.other_files == ("README.md",)
    assert foreign.weight_files == ("model.safetensors",)


@pytest.mark.parametrize(("text", "reason"), [("{", "not valid JSON"), ("[]", "JSON object"), (None, "has no config")])
def test_unusable_config_is_refused(tmp_path: Path, text: str | None, reason: str):
    folder = write_model(tmp_path / "model")
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with pytest.raises(BadCheckpoint, match=reason):
        inspect_foreign(folder)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    staging = tmp_path / "staging"
    staging.mkdir()
    with gzip.open(staging / "test.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"text": "é"}\n{"text": ""}\n')
    publish(
        staging,
        tmp_path / "data",
        lambda files: DatasetDescriptor(files=files, name="toy", origin="local", rows={"test": 2}),
    )
    return tmp_path / "data"


def test_data_set_opens_and_reads_in_order(dataset: Path):
    assert open_dataset(dataset, verify=True).rows == {"test": 2}
    assert read_rows(dataset, "test") == [{"text": "é"}, {"text": ""}]


def test_absent_split_lists_the_present_ones(dataset: Path):
    with pytest.raises(BadCheckpoint, match="has no split 'train'; it has: test"):
        read_rows(dataset, "train")


def test_truncated_rows_are_refused(dataset: Path):
    path = dataset / "test.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        read_rows(dataset, "test")


def test_checkpoints_and_data_sets_are_not_mistaken_for_each_other(dataset: Path, tmp_path: Path):
    publish(write_model(tmp_path / "model"), tmp_path / "artifact", describe)
    with pytest.raises(BadCheckpoint, match="is a data set"):
        open_checkpoint(dataset)
    with pytest.raises(BadCheckpoint, match="is a checkpoint"):
        open_dataset(tmp_path / "artifact")


def test_a_row_that_is_no_text_is_named(tmp_path):
    lines = [b'{"text": "fine \\ud83d\\ude00"}', b'{"text": "cut \\ud83d"}']
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    with pytest.raises(BadCheckpoint, match=r"row 1 \(counted from 0\) of .* half of a surrogate pair"):
        read_rows(tmp_path, "train")
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(lines[0]))
    assert read_rows(tmp_path, "train") == [{"text": "fine \N{GRINNING FACE}"}]
