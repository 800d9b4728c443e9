"""Writes `orchestrator/run/usual_costs.json`: what the stages of a run cost, for the estimate of others' first runs.

    python -m benchmarks.usual_costs STORE RUN --basis "`make bench` on …" --wheel NAME==VERSION=BYTES …

Times that other work of the machine disturbed are left out: use a quiet one. Environments are measured as they lie in
the store. Costs of work that is not in the run are kept from the file before.
"""

import argparse
import os
from pathlib import Path

from orchestrator.run import estimate
from orchestrator.run.estimate import UsualCosts, costs_of
from orchestrator.runtime.environments import ENVIRONMENTS_NAME, MARKER_NAME
from orchestrator.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("run")
    parser.add_argument("--basis", required=True)
    parser.add_argument("--wheel", action="append", default=[])
    given = parser.parse_args()
    file = Path(estimate.__file__).with_name("usual_costs.json")
    before = UsualCosts.model_validate_json(file.read_bytes()) if file.is_file() else None
    store = Store(given.store)
    markers = (given.store / ENVIRONMENTS_NAME).glob(f"*/{MARKER_NAME}")
    wheels = {name: int(size) for name, size in (one.rsplit("=", 1) for one in given.wheel)}
    written = UsualCosts(
        basis=given.basis,
        stages=(before.stages if before else {}) | costs_of(store.runs.load(given.run), store, undisturbed=True),
        environments=(before.environments if before else {})
        | {marker.read_text("ascii").strip(): _bytes_below(marker.parent) for marker in markers},
        wheels=(before.wheels if before else {}) | wheels,
    )
    file.write_text(written.model_dump_json(indent=1) + "\n", encoding="utf-8")


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
