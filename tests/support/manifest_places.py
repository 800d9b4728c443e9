"""Whether keys and positions lead to a place that a manifest can have."""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from orchestrator.manifest import Manifest

Where = tuple[str | int, ...]


def is_a_place(where: Where) -> bool:
    """From the top of a manifest. What begins with no field of it is part of a way, of which nothing is known."""
    if not all(isinstance(part, str | int) for part in where):
        return False
    if not where or where[0] not in Manifest.model_fields:
        return True
    kinds: list[Any] = [Manifest]
    for part in where:
        kinds = [inner for kind in kinds for inner in _below(kind, part)]
    return bool(kinds)


def _below(kind: Any, part: str | int) -> Iterator[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if part in kind.model_fields:
            yield from _alternatives(kind.model_fields[part].annotation)
    elif get_origin(kind) is tuple and isinstance(part, int):
        yield from _alternatives(get_args(kind)[0])
    elif get_origin(kind) is dict and isinstance(part, str):
        yield from _alternatives(get_args(kind)[1])


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The kinds of a union, without what is annotated to them."""
    if hasattr(annotation, "__metadata__"):
        yield from _alternatives(get_args(annotation)[0])
    elif hasattr(annotation, "__value__"):
        yield from _alternatives(annotation.__value__)
    elif get_origin(annotation) in (tuple, dict) or isinstance(annotation, type):
        yield annotation
    else:
        for one in get_args(annotation):
            yield from _alternatives(one)
