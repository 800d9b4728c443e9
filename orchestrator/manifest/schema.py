"""Writes `manifest.schema.json`, by which an editor completes a manifest and marks mistakes: `make schema`.

It knows names, kinds and bounds of fields. That nothing is missing it cannot know, since a file may include others and
may be included; and what two fields may not say together, `orchestrator plan` finds.
"""

import json
from pathlib import Path
from typing import Any

from orchestrator.manifest.including import INCLUDE, MOST_INCLUDED
from orchestrator.manifest.model import Manifest

_SAID = ("title", "description", "default")
PATH = Path(__file__).with_name("manifest.schema.json")


def manifest_schema() -> str:
    """The JSON Schema of one file: with `include`, nothing required, and `null` for a field that is taken away."""
    schema = _lenient(Manifest.model_json_schema(mode="validation"))
    schema["properties"][INCLUDE] = {
        "description": "Files whose fields are taken, relative to this one.",
        "anyOf": [
            {"type": "string"},
            {"items": {"type": "string"}, "maxItems": MOST_INCLUDED, "minItems": 1, "type": "array"},
        ],
    }
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "LLMCBench manifest"
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _lenient(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_lenient(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: _lenient(one) for name, one in schema.items() if name != "required"}
    if "properties" in kept:
        kept["properties"] = {name: _or_nothing(one) for name, one in kept["properties"].items()}
    if kept.get("type") == "array":
        kept["minItems"] = 1  # a file with an empty list is refused, whatever the field
    return kept


def _or_nothing(field: dict[str, Any]) -> dict[str, Any]:
    if {"type": "null"} in field.get("anyOf", ()):
        return field
    said = {name: value for name, value in field.items() if name in _SAID}
    limits = {name: value for name, value in field.items() if name not in _SAID}
    return {**said, "anyOf": [limits, {"type": "null"}]}


if __name__ == "__main__":
    PATH.write_text(manifest_schema(), encoding="utf-8")
