"""Documents of the contract beside each other: what is wrong with one, and where two of them differ, by value.

`0` and `0.0` are the same value, and so are a field that was left out and its default: what is compared are the parsed
documents, not their text, so that any JSON library in any language will do.
"""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

_INPUT_CHARACTERS = 60
_KINDS = ("event", "operation", "artifact", "kind")
"""The fields that say which kind of document an object is."""


def why_invalid(invalid: ValidationError, text: bytes | str) -> str:
    """The first problem of a JSON document in one sentence: the field, the reason, and what stands there."""
    problem = invalid.errors(include_url=False)[0]
    field = ".".join(_path(problem["loc"], _parsed(text)))
    seen = repr(problem["input"])[:_INPUT_CHARACTERS]
    value = "" if problem["type"] in ("missing", "json_invalid") or len(seen) == _INPUT_CHARACTERS else f", not {seen}"
    more = f" (and {invalid.error_count() - 1} more)" if invalid.error_count() > 1 else ""
    return f"{field}: {problem['msg']}{value}{more}" if field else f"{problem['msg']}{more}"


def first_difference(one: BaseModel, other: BaseModel) -> str | None:
    """Where two documents differ first and what each has there; None where they say the same."""
    if type(one) is type(other) and one == other and one.model_dump_json() == other.model_dump_json():  # True is 1
        return None
    return next(_differences(one.model_dump(mode="json"), other.model_dump(mode="json"), ()), None)


def _differences(one: Any, other: Any, place: tuple[str, ...]) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _differences(one.get(key), other.get(key), (*place, str(key)))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differences(left, right, (*place, str(index)))
    elif one != other or isinstance(one, bool) is not isinstance(other, bool):
        yield f"{'.'.join(place) or 'document'}: {_short(one)} here, {_short(other)} there"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _INPUT_CHARACTERS else f"{text[:_INPUT_CHARACTERS]}…"


def _parsed(text: bytes | str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _path(location: tuple[int | str, ...], document: Any) -> list[str]:
    """The fields of a location. Before a field pydantic may put the kind of document that it took the object for."""
    path: list[str] = []
    at, may_be_kind = document, True
    for index, part in enumerate(location):
        if may_be_kind and isinstance(at, dict) and part in [at.get(name) for name in _KINDS]:
            may_be_kind = False
            continue
        if isinstance(at, dict | list) and _has(at, part):
            at, may_be_kind = at[part], True  # type: ignore[index]  # a list's index is a number
        elif index < len(location) - 1:
            continue
        path.append(str(part))
    return path


def _has(container: dict[str, Any] | list[Any], part: int | str) -> bool:
    if isinstance(container, dict):
        return part in container
    return isinstance(part, int) and part < len(container)
