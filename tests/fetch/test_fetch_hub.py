"""A pinned hub revision becomes a checkpoint; an unusable or unreachable one says what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.checkpoint import open_checkpoint
from harness.contract import Reason
from harness.errors import BadCheckpoint, MissingData, Unsupported

Fetch = Callable[..., Any]
REPOSITORY = "org/tiny"
REVISION = "0123456789abcdef0123456789abcdef01234567"
SOURCE = {"kind": "hub", "repository": REPOSITORY, "revision": REVISION}


def test_revision_becomes_a_checkpoint(fetch: Fetch, hub: Any, tiny_model: Path):
    files = hub.add_folder(REPOSITORY, tiny_model)
    fetched = fetch(source=SOURCE)
    descriptor = open_checkpoint(fetched.folder, verify=True)
    assert (fetched.folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert descriptor.source == f"hub:{REPOSITORY}@{REVISION}"
    assert descriptor.notes == ()


def test_only_needed_files_are_downloaded(fetch: Fetch, hub: Any, tiny_model: Path):
    files = hub.add_folder(REPOSITORY, tiny_model)
    files |= {"pytorch_model.bin": b"x", "consolidated.safetensors": b"x", "modeling.py": b"x", "onnx/model.onnx": b"x"}
    fetched = fetch(source=SOURCE)
    assert set(hub.downloads) <= {path.name for path in tiny_model.iterdir()}
    assert set(fetched.result.artifact.files) == set(hub.downloads)


def test_pickle_only_revision_is_refused_before_any_download(fetch: Fetch, hub: Any, tiny_model: Path):
    files = hub.add_folder(REPOSITORY, tiny_model)
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"only pickles \(pytorch_model\.bin\)") as refused:
        fetch(source=SOURCE)
    assert "safetensors" in refused.value.hint
    assert hub.downloads == []


def test_remote_code_is_refused_before_the_weights_are_downloaded(fetch: Fetch, hub: Any, tiny_model: Path):
    files = hub.add_folder(REPOSITORY, tiny_model)
    config = json.loads(files["config.json"]) | {"model_type": "novel", "auto_map": {"AutoConfig": "c.C"}}
    files["config.json"] = json.dumps(config).encode()
    with pytest.raises(Unsupported, match="own code") as refused:
        fetch(source=SOURCE)
    assert refused.value.reason is Reason.ARCHITECTURE
    assert "model.safetensors" not in hub.downloads


def test_shard_missing_at_the_revision_is_named(fetch: Fetch, hub: Any, tiny_model: Path):
    files = hub.add_folder(REPOSITORY, tiny_model)
    del files["model.safetensors"]
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    with pytest.raises(BadCheckpoint, match=r"shard model-00001-of-00001\.safetensors is missing"):
        fetch(source=SOURCE)


def test_download_with_another_digest_is_refused(fetch: Fetch, hub: Any, tiny_model: Path):
    hub.add_folder(REPOSITORY, tiny_model)
    hub.lied_about.add("model.safetensors")
    with pytest.raises(MissingData, match=r"model\.safetensors of org/tiny arrived with another sha256"):
        fetch(source=SOURCE)


def test_truncated_weights_are_refused(fetch: Fetch, hub: Any, tiny_model: Path):
    files = hub.add_folder(REPOSITORY, tiny_model)
    files["model.safetensors"] = files["model.safetensors"][:-8]
    with pytest.raises(BadCheckpoint, match="truncated"):
        fetch(source=SOURCE)


def test_unknown_or_gated_repository_points_at_the_token(fetch: Fetch, hub: Any):
    with pytest.raises(MissingData, match="gated or private") as refused:
        fetch(source=SOURCE)
    assert "HF_TOKEN" in refused.value.hint


@pytest.mark.usefixtures("no_hub")
def test_unreachable_hub_says_how_to_reach_it(fetch: Fetch):
    with pytest.raises(MissingData, match="cannot be reached") as refused:
        fetch(source=SOURCE)
    assert "HF_ENDPOINT" in refused.value.hint
    assert "HTTPS_PROXY" in refused.value.hint
