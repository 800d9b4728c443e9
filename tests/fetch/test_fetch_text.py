"""A text file of the user's becomes a data set to calibrate on, or is refused with the reason."""

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.checkpoint import open_dataset, read_rows
from harness.contract import TextFile
from harness.errors import BadRequest

Fetch = Callable[..., Any]
ROWS = [{"text": "é one", "id": 1}, {"text": "two", "id": 2}]


@pytest.fixture
def fetch_file(fetch: Fetch, tmp_path: Path) -> Fetch:
    def perform(name: str, content: bytes, sha256: str | None = None) -> Any:
        folder = tmp_path / "texts"
        folder.mkdir()
        (folder / name).write_bytes(content)
        source = {"kind": "text-file", "file": name, "sha256": sha256 or hashlib.sha256(content).hexdigest()}
        return fetch(source=source, inputs={"source": str(folder)})

    return perform


def test_blank_lines_separate_the_documents_of_a_plain_file(fetch_file: Fetch):
    fetched = fetch_file("mine.txt", "\n\nfirst é\n line\n \n\nsecond\r\n\r\nthird\n".encode())
    assert read_rows(fetched.folder, "train") == [{"text": "first é\n line"}, {"text": "second"}, {"text": "third"}]
    descriptor = open_dataset(fetched.folder, verify=True)
    assert (descriptor.name, descriptor.rows) == ("file:mine.txt", {"train": 3})


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz"])
def test_rows_arrive_as_they_are(fetch_file: Fetch, name: str):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    fetched = fetch_file(name, gzip.compress(lines) if name.endswith(".gz") else lines)
    assert read_rows(fetched.folder, "train") == ROWS


def test_the_origin_is_the_content_and_not_a_place(fetch_file: Fetch):
    descriptor = fetch_file("mine.txt", b"words").result.artifact
    assert descriptor.origin == f"sha256:{hashlib.sha256(b'words').hexdigest()}"


def test_a_file_changed_since_the_plan_is_refused(fetch_file: Fetch):
    with pytest.raises(BadRequest, match=r"mine\.txt has another sha256"):
        fetch_file("mine.txt", b"words", sha256="0" * 64)


def test_a_vanished_file_is_refused(fetch: Fetch, tmp_path: Path):
    source = {"kind": "text-file", "file": "mine.txt", "sha256": "0" * 64}
    with pytest.raises(BadRequest, match=r"mine\.txt is missing"):
        fetch(source=source, inputs={"source": str(tmp_path)})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.txt", b"\xff\xfe", "cannot be read"),
        ("mine.jsonl", b"{", "cannot be read"),
        ("mine.jsonl.gz", b"not gzip", "cannot be read"),
        ("mine.txt", b" \n\n ", "holds no text"),
        ("mine.jsonl", b"", "holds no text"),
    ],
)
def test_a_file_without_readable_text_is_refused(fetch_file: Fetch, name: str, content: bytes, message: str):
    with pytest.raises(BadRequest, match=message):
        fetch_file(name, content)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (b'{"text": "Smile \\ud83d now"}', r"row 1 .* holds '\\ud83d', half of a surrogate pair"),
        (b'{"text": "a", "score": NaN}', "row 1 .* holds what JSON cannot"),
    ],
)
def test_a_row_that_no_reader_takes_is_named(fetch_file: Fetch, second: bytes, message: str):
    with pytest.raises(BadRequest, match=message):
        fetch_file("mine.jsonl", b'{"text": "fine"}\n' + second + b"\n")


@pytest.mark.parametrize("file", ["../mine.txt", "/mine.txt", "mine.csv", "mine", ".txt"])
def test_only_the_name_of_a_text_file_can_be_asked_for(file: str):
    with pytest.raises(ValidationError):
        TextFile(file=file, sha256="0" * 64)
