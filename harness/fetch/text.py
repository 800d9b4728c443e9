"""A text file of the user's as a data set to calibrate on: its documents, or its rows, are the `train` split."""

import io
import re

from harness.checkpoint import publish
from harness.contract import DatasetDescriptor, FileEntry, TextFile, digest_file
from harness.errors import BadRequest
from harness.fetch.rows import Row, UnreadableRows, read_rows_from, write_rows
from harness.fetch.workspace import Workspace

_SPLIT = "train"
_BLANK_LINES = re.compile(r"\n\s*\n")


def fetch_text(source: TextFile, workspace: Workspace) -> DatasetDescriptor:
    """Publish the file as a data set called `file:<its name>`.

    Raises:
        BadRequest: the file is missing, altered since the plan, unreadable or empty.
    """
    path = workspace.require_source() / source.file
    if not path.is_file():
        raise BadRequest(f"the text file {source.file} is missing", hint="restore it, or plan again")
    if digest_file(path) != source.sha256:
        raise BadRequest(f"the text file {source.file} has another sha256 than the plan saw", hint="plan again")
    content = path.read_bytes()
    rows = _read(content, source.file)
    if not rows:
        raise BadRequest(f"the text file {source.file} holds no text", hint="name a file with documents in it")
    count = write_rows(rows, workspace.staging / f"{_SPLIT}.jsonl.gz")

    def make(files: dict[str, FileEntry]) -> DatasetDescriptor:
        name = f"file:{source.file}"
        return DatasetDescriptor(files=files, name=name, origin=f"sha256:{source.sha256}", rows={_SPLIT: count})

    return publish(workspace.staging, workspace.artifact, make)


def _read(content: bytes, name: str) -> list[Row]:
    try:
        if name.endswith(".txt"):
            return [{"text": text} for text in _paragraphs(content.decode("utf-8"))]
        return read_rows_from(io.BytesIO(content), name)
    except (UnreadableRows, UnicodeDecodeError) as broken:
        raise BadRequest(
            f"the text file {name} cannot be read: {broken}", hint="give UTF-8 text, or one JSON object a line"
        ) from broken


def _paragraphs(text: str) -> list[str]:
    """The documents between blank lines, in order."""
    parts = _BLANK_LINES.split(text.replace("\r\n", "\n"))
    return [part.strip("\n") for part in parts if part.strip()]
