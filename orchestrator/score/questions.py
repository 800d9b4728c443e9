"""Questions of items, quoted from a data set in the store: a row is an item's by its digest, or is not quoted."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from string import Template
from typing import Any

from harness.contract import (
    DESCRIPTOR_NAME,
    DatasetDescription,
    DatasetDescriptor,
    QuestionForm,
    Sha256,
    one_line,
    open_regular,
    read_regular,
)
from harness.contract.items import document_digest
from orchestrator.store import Store

MOST_CHARACTERS = 300
"""Of a question."""
MOST_OF_A_CHOICE = 100
_MOST_ROW_BYTES = 2**24
_DAMAGES = (OSError, EOFError, zlib.error, ValueError, RecursionError)
"""All that reading, unpacking and parsing bytes of any kind can raise."""


class NotQuoted(Exception):
    """No question of the data set can be quoted; the message is a clause that a report can print."""


@dataclass(frozen=True)
class Question:
    """Texts in one line each, cut after so many characters. `choices` are empty where they are not told."""

    text: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Questions:
    """`by_document` has those that were found; `origin` is where the rows came from."""

    origin: str
    by_document: dict[str, Question]


def read_questions(
    store: Store, data: Sha256 | None, described: DatasetDescription | None, wanted: frozenset[str]
) -> Questions:
    """The questions of the rows with these digests, from the data set with the digest `data`.

    Raises:
        NotQuoted: the data set is not there or cannot be read, or how its rows read is not described.
    """
    splits = {} if described is None else described.splits
    if not any(one.question for one in splits.values()):
        raise NotQuoted("no image that is at hand says how its rows read")
    if data is None or not store.artifacts.path(data).is_dir():
        raise NotQuoted("the data set is not in the store any more")
    folder = store.artifacts.path(data)
    try:
        descriptor = DatasetDescriptor.model_validate_json(read_regular(folder / DESCRIPTOR_NAME))
        found: dict[str, Question] = {}
        for name in descriptor.rows:
            form = splits[name].question if name in splits else None
            if form is not None and len(found) < len(wanted):
                found |= _found(folder / f"{name}.jsonl.gz", form, wanted)
    except _DAMAGES as damaged:
        raise NotQuoted(f"the data set in the store cannot be read: {one_line(str(damaged), 200)}") from damaged
    return Questions(descriptor.origin, found)


def _found(path: Path, form: QuestionForm, wanted: frozenset[str]) -> dict[str, Question]:
    found: dict[str, Question] = {}
    for row in _rows(path):
        document = document_digest(row)
        if document in wanted and (question := question_of(form, row)) is not None:
            found[document] = question
            if len(found) == len(wanted):
                break
    return found


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with open_regular(path) as packed, gzip.open(packed) as lines:
        for line in iter(lambda: lines.readline(_MOST_ROW_BYTES), b""):
            yield json.loads(line)


def question_of(form: QuestionForm, row: dict[str, Any]) -> Question | None:
    """None where the row has not the fields that its form names."""
    try:
        choices = [Template(one).substitute(row) for one in form.choices]
        if form.choices_in is not None:
            choices = [str(one) for one in reduce(lambda of, name: of[name], form.choices_in.split("."), row)]
        text = Template(form.text).substitute(row)
    except (KeyError, ValueError, TypeError):
        return None
    return Question(_cut(text, MOST_CHARACTERS), tuple(_cut(one, MOST_OF_A_CHOICE) for one in choices))


def _cut(text: str, most: int) -> str:
    line = " ".join(one_line(text).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"
