"""A snapshot of the hub's cache is a folder of links: it is taken as it is, as long as they stay inside that cache."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.contract import DirectoryModel, UnsafeTree, digest_file, digest_tree
from harness.errors import BadCheckpoint
from orchestrator.errors import BadManifest
from orchestrator.manifest.sources import parse_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Fetch = Callable[..., Any]


@pytest.fixture
def snapshot(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model as the hub's cache keeps it, a second revision's blob beside its own."""
    cache = tmp_path / "hub" / "models--org--tiny"
    folder = cache / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "blobs" / ("f" * 64)).write_bytes(b"of another revision")
    for file in tiny_model.iterdir():
        blob = cache / "blobs" / digest_file(file)
        shutil.copyfile(file, blob)
        (folder / file.name).symlink_to(Path("../../blobs") / blob.name)
    return folder


def fetch_snapshot(fetch: Fetch, snapshot: Path) -> Any:
    parsed = parse_model(f"dir:{snapshot}")
    assert parsed.folder is not None
    return fetch(source=parsed.source.model_dump(mode="json"), inputs={"source": str(parsed.folder)})


def test_its_weights_arrive_byte_for_byte_as_files(fetch: Fetch, snapshot: Path, tiny_model: Path) -> None:
    fetched = fetch_snapshot(fetch, snapshot)
    arrived = fetched.folder / "model.safetensors"
    assert not arrived.is_symlink()
    assert arrived.read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    assert fetched.result.artifact.source == f"dir:{digest_tree(tiny_model)}"
    assert (snapshot / "model.safetensors").is_symlink()


def test_what_is_mounted_is_the_models_folder_of_the_cache(snapshot: Path, tiny_model: Path) -> None:
    parsed = parse_model(f"dir:{snapshot}")
    assert parsed.source == DirectoryModel(tree=digest_tree(tiny_model), snapshot=f"snapshots/{COMMIT}")
    assert parsed.folder == snapshot.parents[1]
    assert parsed.checkpoint == snapshot


def test_a_link_to_the_snapshot_is_that_snapshot(snapshot: Path, tmp_path: Path) -> None:
    link = tmp_path / "my-model"
    link.symlink_to(snapshot)
    assert parse_model(f"dir:{link}") == parse_model(f"dir:{snapshot}")


def absolute(snapshot: Path) -> Path:
    return Path("/etc/hostname")


def absolute_and_inside(snapshot: Path) -> Path:
    return snapshot.parents[1] / "blobs" / ("f" * 64)


def upwards(snapshot: Path) -> Path:
    outside = snapshot.parents[2] / "secret.json"
    outside.write_text("{}")
    return Path("../../../secret.json")


def by_way_of_a_blob(snapshot: Path) -> Path:
    blob = snapshot.parents[1] / "blobs" / ("e" * 64)
    blob.symlink_to("/etc/hostname")
    return Path("../../blobs") / blob.name


def to_nothing(snapshot: Path) -> Path:
    return Path("../../blobs/none")


def to_a_folder(snapshot: Path) -> Path:
    return Path("../../blobs")


def to_itself(snapshot: Path) -> Path:
    return Path("generation_config.json")


@pytest.mark.parametrize(
    "target", [absolute, absolute_and_inside, upwards, by_way_of_a_blob, to_nothing, to_a_folder, to_itself]
)
def test_a_link_that_leaves_the_cache_is_refused_here_and_by_the_worker(
    fetch: Fetch, snapshot: Path, target: Callable[[Path], Path]
) -> None:
    allowed = parse_model(f"dir:{snapshot}")
    bad = snapshot / "generation_config.json"
    bad.unlink(missing_ok=True)
    bad.symlink_to(target(snapshot))
    with pytest.raises(
        BadManifest, match=r"generation_config\.json is a link to no file of models--org--tiny"
    ) as refused:
        parse_model(f"dir:{snapshot}")
    assert "cp -rL" in refused.value.hint
    with pytest.raises(BadCheckpoint, match=r"generation_config\.json is a link to no file of models--org--tiny"):
        fetch(source=allowed.source.model_dump(mode="json"), inputs={"source": str(allowed.folder)})


def test_the_models_folder_itself_is_refused_with_a_snapshot_to_name(snapshot: Path) -> None:
    with pytest.raises(BadManifest, match="hub's cache") as refused:
        parse_model(f"dir:{snapshot.parents[1]}")
    assert str(snapshot) in refused.value.hint


def test_links_in_any_other_folder_stay_refused(snapshot: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "links" / "snapshots" / COMMIT
    shutil.copytree(snapshot, elsewhere, symlinks=False)
    (elsewhere / "config.json").unlink()
    (elsewhere / "config.json").symlink_to(snapshot / "config.json")
    with pytest.raises(BadManifest, match=r"config\.json is a symbolic link"):
        parse_model(f"dir:{elsewhere}")
    with pytest.raises(UnsafeTree):
        digest_tree(snapshot)


@pytest.mark.parametrize("written", ["snapshots/..", "snapshots/main", "/etc", "snapshots/" + "0" * 40 + "/.."])
def test_a_request_names_a_snapshot_by_its_commit_alone(written: str) -> None:
    with pytest.raises(ValueError, match="snapshot"):
        DirectoryModel(tree="0" * 64, snapshot=written)
