"""The stored run of tests/stored_run, and what `score` and `export` make of it."""

import json
import tarfile
from pathlib import Path

from typer.testing import CliRunner

from orchestrator.cli.app import app

PACKED = Path(__file__).parents[1] / "stored_run" / "store.tar.gz"


def unpacked(folder: Path) -> Path:
    with tarfile.open(PACKED) as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # not before Python 3.11.4
        packed.extractall(folder / "store")  # noqa: S202  what this project packed
    return folder / "store"


def call(store: Path, *command: str) -> str:
    done = CliRunner().invoke(app, [*command, "--store", str(store)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def export(store: Path, folder: Path, form: str, *more: str) -> str:
    return call(store, "export", "last", "--format", form, "--output", str(folder), *more)


def figures_of_score(store: Path) -> dict[tuple[str, str], float]:
    """Each figure of an evaluation in `score --json`, by what was evaluated and the task."""
    document = json.loads(call(store, "score", "last", "--json", "--resamples", "100"))
    found = {}
    for one in document["values"]:
        if one["items"] is not None:
            method, setting = one["variant"]["method"], one["variant"]["setting"]
            label = "dense" if method is None else f"{method}-{setting}"
            found[f"{one['place']['model']}/{label}", one["place"]["name"]] = one["value"]
    return found
