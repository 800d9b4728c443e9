"""Pages of fields: what pydantic knows of a document's models, as a table for each of them."""

import re
from typing import Any

_LINK = "#/$defs/"
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minItems": "at least {} of them",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "as `{}`",
}


def fields_page(head: str, schema: dict[str, Any]) -> str:
    """`schema` is what `model_json_schema` gives; models follow in the order in which they are first mentioned.

    An enumeration has no table of its own: its values stand where it is used.
    """
    definitions = schema.get("$defs", {})
    models = {name: one for name, one in _in_order(schema, definitions) if "properties" in one}
    root = [_table(schema, definitions)] if "properties" in schema else []
    sections = [f"## {name}\n\n{_prose(one)}{_table(one, definitions)}" for name, one in models.items()]
    return "\n".join([head, *root, *sections])


def _in_order(schema: dict[str, Any], definitions: dict[str, Any]) -> list[tuple[str, Any]]:
    seen: dict[str, Any] = {}
    waiting = _mentioned(schema)
    while waiting:
        name = waiting.pop(0)
        if name not in seen:
            seen[name] = definitions[name]
            waiting = _mentioned(definitions[name]) + waiting
    return list(seen.items())


def _mentioned(schema: dict[str, Any]) -> list[str]:
    """The definitions that the schema itself points at, in the order of its fields."""
    return [name.removeprefix(_LINK) for name in _references({**schema, "$defs": {}})]


def _references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [name for one in part for name in _references(one)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [name for key, one in part.items() if key != "discriminator" for name in _references(one)]


def _prose(schema: dict[str, Any]) -> str:
    text = schema.get("description", "")
    return f"{text.strip()}\n\n" if text else ""


def _table(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = [
        f"| `{name}` | {_kind(one, definitions)} | {'required' if name in required else _default(one)} |"
        for name, one in schema["properties"].items()
    ]
    return "\n".join(["| field | takes | default |", "| --- | --- | --- |", *rows, ""])


def _kind(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    limits = [text.format(_escaped(str(schema[name]))) for name, text in _BOUNDS.items() if name in schema]
    return ", ".join([_type(schema, definitions), *limits])


def _type(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_LINK)
        model = definitions[name]
        return f"[{name}](#{name.lower()})" if "properties" in model else _type(model, definitions)
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{_escaped(str(value))}`" for value in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            kinds = [_kind(one, definitions) for one in schema[several] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    return _plain_type(schema, definitions)


def _plain_type(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    kind = schema.get("type")
    if kind == "array":
        inner = schema.get("items", {})
        return f"list of {_kind(inner, definitions)}" if inner else "list"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"by name: {_kind(inner, definitions)}" if isinstance(inner, dict) else "mapping"
    names = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number"}
    return names.get(str(kind), "anything")


def _default(schema: dict[str, Any]) -> str:
    value = schema.get("default")
    if value in (None, [], {}, ""):
        return ""
    if isinstance(value, dict):
        return ", ".join(f"`{name}: {_written(one)}`" for name, one in value.items() if one not in (None, [], {}))
    return f"`{_written(value)}`"


def _written(value: Any) -> str:
    """As YAML and JSON have it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_written(one)}' for name, one in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else _escaped(str(value))


def _escaped(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", r"\|")
