"""Writes the JSON Schemas of `report.json` and of what `recommend --json` prints beside their models: `make schema`."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from orchestrator.decide.answer import Decision
from orchestrator.report.model import RunReport

_TITLES = ("title", "description", "default")
_HERE = Path(__file__).parent
SCHEMAS: dict[Path, type[BaseModel]] = {
    _HERE / "report.schema.json": RunReport,
    _HERE.parent / "decide" / "decision.schema.json": Decision,
}
"""The file of each document."""


def schema_text(document: type[BaseModel]) -> str:
    """The JSON Schema of the document as it is written: figures that are no numbers are strings."""
    schema = _with_infinite(document.model_json_schema(mode="serialization"))
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _with_infinite(schema: Any) -> Any:
    """The schema, in which a number may be one of the three that JSON has no number for."""
    if isinstance(schema, list):
        return [_with_infinite(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "number":
        limits = {name: value for name, value in schema.items() if name not in _TITLES}
        said = {name: value for name, value in schema.items() if name in _TITLES}
        return {**said, "anyOf": [limits, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
    return {name: _with_infinite(one) for name, one in schema.items()}


if __name__ == "__main__":
    for path, document in SCHEMAS.items():
        path.write_text(schema_text(document), encoding="utf-8")
