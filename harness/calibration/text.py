"""The texts of a data set that a method may calibrate on: which split and which field."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.checkpoint import read_rows
from harness.contract import DatasetDescriptor
from harness.errors import BadRequest

_SPLITS = ("train", "validation")
_TEXT_FIELDS = ("text", "passage", "content")
_INSTRUCTION_FIELDS = ("instruction", "input", "output")


def choose_split(descriptor: DatasetDescriptor) -> str:
    """The training split, else the validation split; never a test split.

    Raises:
        BadRequest: the set has neither.
    """
    for split in _SPLITS:
        if descriptor.rows.get(split):
            return split
    raise BadRequest(
        f"data set {descriptor.name!r} has no train or validation split to calibrate on",
        hint="calibrate on c4, wikitext2, pile, alpaca, bookcorpus, boolq or file:PATH; a test split is never used",
    )


def read_texts(folder: Path, name: str, split: str) -> list[str]:
    """The text of every row, in order: its field `text`, else `passage`, else `content`.

    Rows of instructions are rendered by `instruction_text`.

    Raises:
        BadCheckpoint: the rows cannot be read.
        BadRequest: they hold no text.
    """
    rows = read_rows(folder, split)
    if rows[0].keys() >= set(_INSTRUCTION_FIELDS):
        texts = [instruction_text(row) for row in rows]
    else:
        field = _text_field(name, rows[0])
        if any(field not in row for row in rows):
            raise BadRequest(f"rows of data set {name!r} have no field {field!r}", hint="fetch the data set again")
        texts = [row[field] for row in rows]
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest(f"field {field!r} of data set {name!r} is not text", hint="calibrate on a set of texts")
    return texts


def instruction_text(row: Mapping[str, Any]) -> str:
    """One instruction with its answer, in sections; the section `Input` is there where the row has an input."""
    return instruction_prompt(row) + str(row["output"])


def instruction_prompt(row: Mapping[str, Any]) -> str:
    """What comes before the answer: the part that a recovery by training does not learn."""
    given = f"### Input:\n{row['input']}\n\n" if row["input"] else ""
    return f"### Instruction:\n{row['instruction']}\n\n{given}### Response:\n"


def _text_field(name: str, row: dict[str, Any]) -> str:
    for field in _TEXT_FIELDS:
        if isinstance(row.get(field), str):
            return field
    raise BadRequest(
        f"data set {name!r} has no text field that is known here; its fields are: {', '.join(sorted(row))}",
        hint=f"use a set with a field named {', '.join(_TEXT_FIELDS)}, or with {', '.join(_INSTRUCTION_FIELDS)}",
    )
