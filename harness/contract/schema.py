"""The JSON Schema of the contract, for authors of images in any language.

`python -m harness.contract.schema` writes it beside this file.
"""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from harness.contract.artifact import Descriptor
from harness.contract.event import Event
from harness.contract.image import ImageDescription
from harness.contract.request import Request

SCHEMA_PATH = Path(__file__).with_name("schema.json")


class _Contract(BaseModel):
    """LLMCBench contract 1: a worker reads one request on stdin and prints events, the last a result or an error."""

    model_config = ConfigDict(title="LLMCBench contract 1")

    request: Request
    event: Event
    descriptor: Descriptor
    image: ImageDescription


def contract_schema() -> str:
    """The schema of requests, events, artifact descriptors and image descriptions, as JSON text."""
    return json.dumps(_Contract.model_json_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_PATH.write_text(contract_schema(), encoding="utf-8")
