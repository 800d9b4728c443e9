"""Reads a manifest file, and turns every mistake in it into one sentence with its line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from harness.contract import unknown
from orchestrator.errors import BadManifest
from orchestrator.manifest.including import Composed, compose_manifest
from orchestrator.manifest.model import Manifest


def read_manifest(path: Path) -> Manifest:
    """Read `path` with what it includes, and validate it. No value is taken for another kind: `"3"` is no number.

    Raises:
        BadManifest: it is missing or no file, not YAML, or does not follow the manifest's form; the message names file
            and line.
    """
    return read_composed(path)[0]


def read_composed(path: Path) -> tuple[Manifest, Composed]:
    """The same, with where each of its values is written. Raises as `read_manifest` does."""
    composed = compose_manifest(path)
    try:
        return Manifest.model_validate_json(json.dumps(composed.value), strict=True), composed
    except ValidationError as invalid:
        problems = invalid.errors(include_url=False)
        first = problems[0]
        at = composed.origin_of(tuple(part for part in first["loc"]))
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BadManifest(
            f"{at.file}, line {at.line}: {_sentence(first)}{more}",
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
        at = compose_manifest(path).origin_of(bad.where)
        raise BadManifest(f"{at.file}, line {at.line}: {bad.message}", hint=bad.hint) from bad


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
