"""Reads a manifest file, and turns every mistake in it into one sentence with its line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from harness.contract import unknown
from orchestrator.errors import BadManifest
from orchestrator.manifest.document import read_document, read_text
from orchestrator.manifest.model import Manifest


def read_manifest(path: Path) -> Manifest:
    """Read and validate `path`. No value is taken for one of another kind: `"3"` and `true` are no numbers.

    Raises:
        BadManifest: it is missing or no file, not YAML, or does not follow the manifest's form; the message names file
            and line.
    """
    text = read_text(path)
    try:
        document = read_document(text)
    except BadManifest as broken:
        raise BadManifest(f"{path}, {broken.message}", hint=broken.hint) from broken
    try:
        return Manifest.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as invalid:
        problems = invalid.errors(include_url=False)
        first = problems[0]
        where = tuple(part for part in first["loc"])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BadManifest(
            f"{path}, line {document.line_of(where)}: {_sentence(first)}{more}",
            hint="see docs/manifests.md",
        ) from invalid


@contextmanager
def pointing_at(path: Path) -> Iterator[None]:
    """Add file and line to a BadManifest raised within that says where in the manifest `path` its fault stands."""
    try:
        yield
    except BadManifest as bad:
        if not bad.where:
            raise
        line = read_document(read_text(path)).line_of(bad.where)
        raise BadManifest(f"{path}, line {line}: {bad.message}", hint=bad.hint) from bad


def _sentence(problem: ErrorDetails) -> str:
    where = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return unknown("field", where[-1], _fields_at(where[:-1]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{'.'.join(where) or 'manifest'}: {message}"


def _fields_at(where: list[str]) -> list[str]:
    model: object = Manifest
    for part in where:
        if part.isdigit():
            continue
        fields = getattr(model, "model_fields", {})
        model = _model_in(fields[part].annotation) if part in fields else model
    return list(getattr(model, "model_fields", {}))


def _model_in(annotation: object) -> object:
    """The manifest model inside an annotation such as `tuple[Entry, ...]` or `Entry | None`."""
    if hasattr(annotation, "model_fields"):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if hasattr(found, "model_fields"):
            return found
    return None
