"""Another valid value for any field of a contract model, found from its type: a law about all fields needs no list."""

from collections.abc import Iterator
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError

from harness.contract import Frozen

Model = TypeVar("Model", bound=Frozen)
FieldPath = tuple[str | int, ...]


def has_one_value(model: type[Frozen], field: str) -> bool:
    """Whether the type allows a single value: the tag of a union, a version."""
    annotation = model.model_fields[field].annotation
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


def field_paths(model: Frozen) -> Iterator[FieldPath]:
    """The path of every field of a document that holds no fields itself; what can have one value alone is left out."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Frozen):
            yield from ((name, *path) for path in field_paths(value))
        elif isinstance(value, tuple) and value and isinstance(value[0], Frozen):
            yield from ((name, 0, *path) for path in field_paths(value[0]))
        elif not has_one_value(type(model), name):
            yield (name,)


def with_other_value(model: Model, path: FieldPath, value: Any = None) -> Model:
    """The document with another value at `path`: `value`, or the first that the field's model accepts there.

    Raises:
        LookupError: no value is known that the field accepts; give it one.
    """
    name, rest = str(path[0]), path[1:]
    held = getattr(model, name)
    if rest and isinstance(held, tuple):
        return model.model_copy(update={name: (with_other_value(held[0], rest[1:], value), *held[1:])})
    if rest:
        return model.model_copy(update={name: with_other_value(held, rest, value)})
    for candidate in [value] if value is not None else _others(held, type(model).model_fields[name].annotation):
        try:
            changed = type(model).model_validate({**dict(model), name: candidate})
        except ValidationError:
            continue
        if changed != model:
            return changed
    raise LookupError(f"no other value is known for {type(model).__name__}.{name}, which is {held!r}")


def _others(value: Any, annotation: Any) -> Iterator[Any]:
    if value is None:
        yield from _first_of(annotation)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, Enum):
        yield from type(value)
    elif isinstance(value, int | float):
        yield from (value + 1, value / 2)
    elif isinstance(value, str):
        yield from get_args(annotation) if get_origin(annotation) is Literal else ()
        yield from (f"{value}x", f"x{value}", "f" * len(value), f"{value[:-1]}f")
    elif isinstance(value, tuple):
        yield from ((*value, one) for one in (_others(value[-1], None) if value else ("x", 1)))
    elif isinstance(value, dict) and value:
        key, held = next(iter(value.items()))
        yield from ({**value, key: one} for one in _others(held, None))


def _first_of(annotation: Any) -> Iterator[Any]:
    """Values to try where there was none."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        for one in arguments:
            yield from _first_of(one)
    elif origin is Annotated:
        yield from _first_of(arguments[0])
    elif origin is Literal:
        yield from arguments
    elif origin is tuple:
        yield tuple(range(1, len(arguments) + 1))
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        yield from annotation
    elif isinstance(annotation, type) and issubclass(annotation, Frozen):
        needed = {name: field.annotation for name, field in annotation.model_fields.items() if field.is_required()}
        yield annotation.model_validate({name: next(_first_of(kind)) for name, kind in needed.items()})
    else:
        yield from {bool: (True,), int: (1,), float: (0.5,), str: ("x",)}.get(annotation, ())
