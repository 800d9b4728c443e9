"""Rows of a data set, read from the forms that its sources use and written in the one that an artifact has."""

import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from harness.errors import BadRequest

Row = dict[str, Any]


class UnreadableRows(Exception):
    """A file does not hold rows in the form that its name promises."""


def read_rows_from(file: BinaryIO, name: str) -> list[Row]:
    """Rows of an open file; its name's ending tells the form: JSON Lines, Parquet or an Arrow stream.

    JSON Lines may be compressed with gzip or Zstandard. A `.json` file may also hold one array.

    Raises:
        UnreadableRows: the content does not have that form.
    """
    import pyarrow

    try:
        if name.endswith((".jsonl.gz", ".json.gz")):
            with gzip.open(file, "rt", encoding="utf-8") as text:
                return _checked([json.loads(line) for line in text])
        if name.endswith(".jsonl.zst"):
            with pyarrow.input_stream(file, compression="zstd") as raw:
                return _checked([json.loads(line) for line in io.TextIOWrapper(raw, encoding="utf-8")])
        if name.endswith((".jsonl", ".json")):
            return _checked(_read_json(io.TextIOWrapper(file, encoding="utf-8")))
        return _read_columns(file, PurePosixPath(name).suffix)
    except (OSError, EOFError, ValueError, pyarrow.ArrowException) as broken:
        raise UnreadableRows(f"{name} cannot be read: {broken}") from broken


def write_rows(rows: Iterable[Row], path: Path) -> int:
    """Write `<split>.jsonl.gz`, reproducibly, and return the number of rows.

    Raises:
        BadRequest: a row holds text that is no UTF-8, which no tokenizer takes, or a value that JSON does not have.
    """
    count = 0
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
        for row in rows:
            file.write(_encoded(row, count) + b"\n")
            count += 1
    return count


def _encoded(row: Row, place: int) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as lone:
        raise BadRequest(
            f"row {place} (counted from 0) holds {lone.object[lone.start]!r}, half of a surrogate pair: it is no text",
            hint="mend or drop this row; it was cut within a character, or written with an escape such as \\ud83d",
        ) from lone
    except (ValueError, TypeError) as strange:
        raise BadRequest(
            f"row {place} (counted from 0) holds what JSON cannot: {strange}", hint="write it as text or leave it out"
        ) from strange


def _read_json(file: io.TextIOBase) -> list[Any]:
    text = file.read()
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    return [json.loads(line) for line in text.splitlines()]


def _checked(rows: list[Any]) -> list[Row]:
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is not a JSON object")
    return rows


def _read_columns(file: BinaryIO, suffix: str) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    if suffix == ".parquet":
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(file.read()))
    elif suffix == ".arrow":
        with pyarrow.ipc.open_stream(pyarrow.BufferReader(file.read())) as stream:
            table = stream.read_all()
    else:
        raise ValueError(f"no reader for {suffix!r} files")
    return cast("list[Row]", table.to_pylist())
