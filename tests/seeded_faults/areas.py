"""What `areas.toml` says."""

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Area:
    """Files, as patterns, and the tests that guard them."""

    name: str
    files: list[str]
    tests: list[str]


def areas() -> list[Area]:
    said = tomllib.loads(Path(__file__).with_name("areas.toml").read_text("utf-8"))
    return [Area(name, **one) for name, one in said.items()]
