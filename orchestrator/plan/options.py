"""Options of a method or backend, held against the schema that its image carries, before anything is fetched."""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from harness.contract import OPTIONS_NAME, Scalar, did_you_mean
from orchestrator.errors import BadImage, BadManifest, located
from orchestrator.images.image import Image

_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)
"""As the workers of this project read a request: `3.0` is no whole number."""


def check_options(image: Image, kind: Literal["methods", "backends"], name: str, options: Mapping[str, Scalar]) -> None:
    """Refuse options that the schema of `name` does not allow; without a schema they are the worker's to refuse.

    Raises:
        BadManifest: an option is unknown or its value is not allowed; `where` is the option's name.
        BadImage: the image's `options.json` is not valid.
    """
    schema = _schema(image, kind, name)
    if schema is None:
        return
    known = schema.get("properties", {})
    strangers = [] if schema.get("additionalProperties") is not False else [one for one in options if one not in known]
    for option in strangers:
        with located(option):
            raise BadManifest(
                f"{name} has no option {option!r}{did_you_mean(option, known)}",
                hint=f"its options are: {', '.join(known)}" if known else f"{name} has no options",
            )
    problem = best_match(_problems(image, schema, options))
    if problem is not None:
        with located(*list(problem.absolute_path)[:1]):
            raise BadManifest(_sentence(name, problem), hint=f"see {image.folder / OPTIONS_NAME}")


def _schema(image: Image, kind: str, name: str) -> dict[str, Any] | None:
    path = image.folder / OPTIONS_NAME
    if not path.is_file():
        return None
    try:
        text = path.read_bytes()
    except OSError as unreadable:
        raise BadImage(f"{path} cannot be read: {unreadable}", hint="make it readable") from unreadable
    return _checked(path, text, kind, name)


@lru_cache(maxsize=128)
def _checked(path: Path, text: bytes, kind: str, name: str) -> dict[str, Any] | None:
    """The schema of `name` in an `options.json`, checked once for all entries of a manifest that need it."""
    try:
        schema = json.loads(text).get(kind, {}).get(name)
        if schema is not None:
            Draft202012Validator.check_schema(schema)
    except (ValueError, AttributeError, SchemaError) as invalid:
        reason = invalid.message if isinstance(invalid, SchemaError) else str(invalid)
        raise BadImage(f"{path} holds no JSON Schema of {name}: {reason}", hint="see docs/images.md") from invalid
    return schema if isinstance(schema, dict) else None


def _problems(image: Image, schema: dict[str, Any], options: Mapping[str, Scalar]) -> Iterator[ValidationError]:
    """An empty registry: a schema that refers to another document is not looked up anywhere."""
    try:
        yield from _Validator(schema, registry=Registry()).iter_errors(dict(options))
    except Unresolvable as absent:
        raise BadImage(
            f"{image.folder / OPTIONS_NAME} refers to {absent.ref}, which is not in it", hint="write it out there"
        ) from absent


def _sentence(name: str, problem: ValidationError) -> str:
    if not problem.absolute_path:
        return f"options of {name}: {problem.message}"
    return f"option {problem.absolute_path[0]!r} of {name} cannot be {problem.instance!r}: {problem.message}"
