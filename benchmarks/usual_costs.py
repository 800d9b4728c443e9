"""Writes `orchestrator/run/usual_costs.json`: what the stages of a run cost, for the estimate of others' first runs.

    python -m benchmarks.usual_costs --shape benchmarks/h200/methods-llama-2-7b.json=6738415616 …
    python -m benchmarks.usual_costs STORE RUN --basis "`make bench` on …" --wheel NAME==VERSION=BYTES …

Times that other work of the machine disturbed are left out: use a quiet one. Environments are measured as they lie in
the store. Costs of work that is not in the run are kept from the file before. `--shape` takes what
`benchmarks/h200/methods.py` measured of whole models of a number of parameters.
"""

import argparse
import json
import os
from pathlib import Path

from orchestrator.run import estimate
from orchestrator.run.costs import ShapeCost, UsualCosts, costs_of
from orchestrator.runtime.environments import ENVIRONMENTS_NAME, MARKER_NAME
from orchestrator.store import Store

_NOTHING = UsualCosts(basis="", stages={}, environments={}, wheels={})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, nargs="?")
    parser.add_argument("run", nargs="?")
    parser.add_argument("--basis")
    parser.add_argument("--shape", action="append", default=[])
    parser.add_argument("--wheel", action="append", default=[])
    given = parser.parse_args()
    if given.store and not (given.run and given.basis):
        parser.error("STORE needs RUN and --basis")
    file = Path(estimate.__file__).with_name("usual_costs.json")
    written = UsualCosts.model_validate_json(file.read_bytes()) if file.is_file() else _NOTHING
    if given.store:
        written = _with_run(written, given)
    for shape in given.shape:
        written = _with_shape(written, *shape.rsplit("=", 1))
    file.write_text(written.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _with_run(before: UsualCosts, given: argparse.Namespace) -> UsualCosts:
    store = Store(given.store)
    markers = (given.store / ENVIRONMENTS_NAME).glob(f"*/{MARKER_NAME}")
    wheels = {name: int(size) for name, size in (one.rsplit("=", 1) for one in given.wheel)}
    return UsualCosts(
        basis=given.basis,
        stages=before.stages | costs_of(store.runs.load(given.run), store, undisturbed=True),
        environments=before.environments
        | {marker.read_text("ascii").strip(): _bytes_below(marker.parent) for marker in markers},
        wheels=before.wheels | wheels,
        shapes=before.shapes,
    )


def _with_shape(before: UsualCosts, path: str, parameters: str) -> UsualCosts:
    measured = json.loads(Path(path).read_text("utf-8"))
    found = {
        (measured["device"], int(parameters), method): ShapeCost(
            device_model=measured["device"],
            parameters=int(parameters),
            method=method,
            samples=one["calibration"]["samples"],
            sequence_length=one["calibration"]["sequence_length"],
            seconds=one["wall_seconds"],
        )
        for method, one in measured["methods"].items()
    }
    kept = {(one.device_model, one.parameters, one.method): one for one in before.shapes}
    return before.model_copy(update={"shapes": tuple((kept | found).values())})


def _bytes_below(folder: Path) -> int:
    """What the folder takes on a disk that has none of its files yet."""
    sizes = {}
    for path, _, names in os.walk(folder):
        for name in names:
            found = (Path(path) / name).lstat()
            sizes[found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


if __name__ == "__main__":
    main()
