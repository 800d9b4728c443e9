"""Writes `options.json` beside each `image.toml`: a JSON Schema of the options of what the image offers.

It comes from the options models of the modules that the description names, so that a plan can hold a manifest's options
against it without the libraries of a method. `python -m harness.option_schemas images` writes those of a folder.
"""

import importlib
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from harness.contract import OPTIONS_NAME, ImageDescription


def option_schemas(image: ImageDescription) -> dict[str, dict[str, Any]]:
    """The schema of each method and backend with a module, below `methods` and `backends`.

    Raises:
        ModuleNotFoundError: a module, or what it imports, is not installed here.
    """
    methods = {
        one.name: importlib.import_module(one.module).OPTIONS[one.name].model_json_schema()
        for one in image.methods
        if one.module is not None
    }
    backends = {
        one.name: importlib.import_module(one.module).BACKEND.options.model_json_schema()
        for one in image.backends
        if one.module is not None
    }
    return {kind: offered for kind, offered in (("methods", methods), ("backends", backends)) if offered}


def schema_text(schemas: dict[str, dict[str, Any]]) -> str:
    """The text of `options.json`."""
    return json.dumps(schemas, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main(images: Path) -> None:
    for path in sorted(images.glob("*/image.toml")):
        image = ImageDescription.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        if schemas := option_schemas(image):
            path.with_name(OPTIONS_NAME).write_text(schema_text(schemas), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
