"""A run's dense model against the reference run's, item by item: how often the same items got the same verdict, and how
far values lie apart.

python -m benchmarks.h200.agreement --store DIR [--run accuracy-limited]
"""

import argparse
import io
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from benchmarks.h200.reference_page import ARTIFACT
from harness.contract import EvaluateResult
from orchestrator.artifact.unpacked import unpacked
from orchestrator.artifact.verifying import open_packed
from orchestrator.evidence.reading import stored_results
from orchestrator.stages import OUTPUT_NAME
from orchestrator.store import RunRecord, StageRecord, Store


@dataclass(frozen=True)
class Agreement:
    """Of the `shared` items of one task. `largest` and `median` are relative differences of log-likelihoods.

    `here` and `there` are the metric over these items; nats per token for a perplexity.
    """

    task: str
    shared: int
    same_picks: int
    largest: float
    median: float
    here: float
    there: float
    dtypes: str


def agreements(limited: tuple[RunRecord, Store], whole: tuple[RunRecord, Store]) -> Iterator[Agreement]:
    """One entry for each task that both runs measured of a dense model by the same protocol."""
    ours, theirs = _dense(*limited), _dense(*whole)
    for task, (stage, folder) in ours.items():
        if task in theirs and theirs[task][0].protocol == stage.protocol:
            items, reference = _items(folder / stage.items_file), _items(theirs[task][1] / theirs[task][0].items_file)
            shared = [(item, reference[name]) for name, item in items.items() if name in reference]
            if shared:
                dtypes = f"{stage.dtype.value}, {theirs[task][0].dtype.value}"
                yield _compare(task, shared, stage.metric, dtypes)


def section(found: list[Agreement], device: str) -> str:
    """The table as Markdown."""
    rows = [
        f"| {one.task} | {one.shared} | {one.same_picks / one.shared:.1%} | {one.median:.1e} | {one.largest:.1e} "
        f"| {one.here:.3f} | {one.there:.3f} | {one.dtypes} |"
        for one in found
    ]
    return "\n".join(
        (
            "## The same items on a CPU",
            "",
            f"The dense model on {device}, with limits (`manifests/accuracy-limited.yaml`), against the run above: "
            "items that both scored, the share with the same pick, relative differences of log-likelihoods (median, "
            "largest), and the metric over these items (for perplexities: nats per token).",
            "",
            "| Task | Items | Same pick | Median | Largest | CPU | GPU | dtypes |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *rows,
        )
    )


def _dense(record: RunRecord, store: Store) -> dict[str, tuple[EvaluateResult, Path]]:
    found: dict[str, StageRecord] = stored_results(record, store)
    dense = {}
    for name, stage in found.items():
        subject, result = record.stages[name].subject, stage.final.result
        if subject is not None and subject.method is None and isinstance(result, EvaluateResult):
            dense[result.task] = (result, store.stages / stage.provenance.key / OUTPUT_NAME)
    return dense


def _items(path: Path) -> dict[tuple[object, ...], Mapping[str, Any]]:
    """Questions by their part and row; segments, which have no row, by their number and length."""
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as plain:
        items = [json.loads(line) for line in io.TextIOWrapper(plain, encoding="utf-8")]
    return {
        (item.get("group"), item["document"]) if "document" in item else (item["index"], item["tokens"]): item
        for item in items
    }


def _compare(
    task: str, shared: list[tuple[Mapping[str, Any], Mapping[str, Any]]], metric: str, dtypes: str
) -> Agreement:
    differences, same = [], 0
    for ours, theirs in shared:
        pairs = list(zip(_likelihoods(ours), _likelihoods(theirs), strict=True))
        differences += [abs(here - there) / abs(there) for here, there in pairs if there]
        same += ours.get("picked") == theirs.get("picked")
    return Agreement(
        task=task,
        shared=len(shared),
        same_picks=same,
        largest=max(differences),
        median=statistics.median(differences),
        here=statistics.fmean(_figure(ours, metric) for ours, _ in shared),
        there=statistics.fmean(_figure(theirs, metric) for _, theirs in shared),
        dtypes=dtypes,
    )


def _likelihoods(item: Mapping[str, Any]) -> list[float]:
    if "negative_log_likelihood" in item:
        return [item["negative_log_likelihood"]]
    return [value for value in item["log_likelihoods"] if value is not None]


def _figure(item: Mapping[str, Any], metric: str) -> float:
    if "negative_log_likelihood" in item:
        return float(item["negative_log_likelihood"]) / int(item["tokens"])
    return float(item["correct"][metric])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="the store of the run to compare")
    parser.add_argument("--run", default="accuracy-limited", help="its name, or a prefix (%(default)s)")
    given = parser.parse_args()
    store = Store(given.store)
    run = store.runs.load(given.run)
    with unpacked(ARTIFACT) as content:
        if content.broken is not None:
            raise SystemExit(f"{ARTIFACT}: {content.broken}")
        packed, _ = open_packed(content)
        found = list(agreements((run, store), (packed.record, packed.store)))
    sys.stdout.write(section(found, run.device_model) + "\n")


if __name__ == "__main__":
    main()
