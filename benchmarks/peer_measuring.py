"""The measurements of methods_vs_peers.py: each a process of its own, ours and the peer's in turn."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer_cases import Case, Options

from harness.contract import (
    ARTIFACT_NAME,
    Calibration,
    CompressParameters,
    CompressRequest,
    Device,
    DeviceKind,
    EvaluateParameters,
    EvaluateRequest,
    Setting,
)
from orchestrator.images.catalog import ImageCatalog

PROJECT = Path(__file__).resolve().parent.parent
STEP = Path(__file__).with_name("measured_run.py")
FLOORS = {"ours, floor": "ours", "peer, floor": "peer"}
_COMPARED_MASKS = {"peer": "ours", **FLOORS}
"""Sides whose masks are compared, each with those of another side."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share. `interpreters`: the Python of `ours`, and of each peer that there is.

    `floor`: each side is run once more, changed as `Case.sides` says, for how much that alone moves.
    """

    checkpoint: Path
    calibration: Path
    evaluation: Path
    drawn: Calibration
    device: Device
    interpreters: dict[str, str]
    repeats: int
    limit: int | None
    work: Path
    floor: bool = False


@dataclass
class Measured:
    """One side of a case: every run, and the perplexity of the first run's checkpoint."""

    method: str
    options: Options
    runs: list[dict[str, Any]] = field(default_factory=list)
    perplexity: float | None = None
    failed: str | None = None

    def median(self, *path: str) -> float | None:
        """Median over the runs of the figure that stands at `path` in each."""
        values = []
        for run in self.runs:
            value: Any = run
            for key in path:
                value = value[key]
            values.append(float(value))
        return statistics.median(values) if values else None


def step(bench: Bench, side: str, name: str, document: dict[str, Any]) -> dict[str, Any]:
    """Run one step in a fresh process of the side's interpreter; `{"ok": …}` or `{"failed": …}`."""
    variables = os.environ | {
        "PYTHONPATH": str(PROJECT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(bench.device.threads),
        "MKL_NUM_THREADS": str(bench.device.threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # as the runtimes start workers: spinning threads stall beside other processes
        "TOKENIZERS_PARALLELISM": "false",
    }
    if "method" in document.get("parameters", {}):
        image, _ = ImageCatalog(PROJECT / "images").methods[document["parameters"]["method"]]
        variables["LLMCBENCH_IMAGE"] = str(image.description_path)
    if bench.device.kind is DeviceKind.CPU:
        variables["CUDA_VISIBLE_DEVICES"] = ""
    log = bench.work / f"{side}-{name}.stderr"
    with log.open("wb") as stderr:
        done = subprocess.run(
            [bench.interpreters[side], str(STEP), name],
            input=json.dumps(document).encode(),
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=variables,
            cwd=bench.work,
            check=False,
        )
    if done.returncode != 0 or not done.stdout:
        end = " | ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
        return {"failed": f"{name} ended with status {done.returncode}: {end}"}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def measure(bench: Bench, case: Case) -> tuple[dict[str, Measured], dict[str, dict[str, float]]]:
    """All sides of a case, run after run in turn; and, for a pruning, how masks of two sides overlap."""
    sides = {side: Measured(*one) for side, one in case.sides.items() if side not in FLOORS or bench.floor}
    first = {side: bench.work / f"{side}-first" for side in sides}
    for repeat in range(bench.repeats):
        for side, measured in sides.items():
            if measured.failed is None and (repeat == 0 or side not in FLOORS):
                output = first[side] if repeat == 0 else bench.work / f"{side}-next"
                _compress_once(bench, case, side, measured, output)
                print(f"{case.name}, {measured.method}, run {repeat + 1}: {_last_seconds(measured)}", file=sys.stderr)
    if len({run["tokens_sha256"] for measured in sides.values() for run in measured.runs}) > 1:
        sides["peer"].failed = "the two sides were calibrated on different tokens"
    for side, measured in sides.items():
        if measured.failed is None:
            evaluate_once(bench, measured, first[side] / ARTIFACT_NAME)
    overlaps = _mask_overlaps(bench, sides, first) if case.prunes else {}
    for folder in first.values():
        shutil.rmtree(folder, ignore_errors=True)
    return sides, overlaps


def _mask_overlaps(bench: Bench, sides: dict[str, Measured], made: dict[str, Path]) -> dict[str, dict[str, float]]:
    overlaps: dict[str, dict[str, float]] = {}
    for side, other in _COMPARED_MASKS.items():
        if side in sides and sides[other].failed is None and sides[side].failed is None:
            folders = {"first": str(made[other] / ARTIFACT_NAME), "second": str(made[side] / ARTIFACT_NAME)}
            answer = step(bench, "ours", "masks", folders)
            if "ok" in answer:
                overlaps[side] = answer["ok"]
    return overlaps


def _compress_once(bench: Bench, case: Case, side: str, measured: Measured, output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    request = CompressRequest(
        id=case.name,
        device=bench.device,
        inputs={"checkpoint": str(bench.checkpoint), "calibration": str(bench.calibration)},
        output=str(output),
        parameters=CompressParameters(
            method=measured.method,
            setting=Setting.parse(case.setting),
            calibration=bench.drawn,
            options=measured.options,
        ),
    )
    environment = case.peer if FLOORS.get(side, side) == "peer" else "ours"
    answer = step(bench, environment, "compress", request.model_dump(mode="json"))
    if "failed" in answer:
        measured.failed = answer["failed"]
        return
    measured.runs.append(answer["ok"])
    if output.name.endswith("-next"):
        shutil.rmtree(output)


def evaluate_once(bench: Bench, measured: Measured, checkpoint: Path) -> None:
    """Perplexity of a checkpoint, by our own evaluator whoever made it."""
    with tempfile.TemporaryDirectory(dir=bench.work) as output:
        request = EvaluateRequest(
            id="perplexity",
            device=bench.device,
            inputs={"checkpoint": str(checkpoint), "dataset": str(bench.evaluation)},
            output=output,
            parameters=EvaluateParameters(task="wikitext2", limit=bench.limit),
        )
        answer = step(bench, "ours", "evaluate", request.model_dump(mode="json"))
    if "failed" in answer:
        measured.failed = answer["failed"]
        return
    measured.perplexity = answer["ok"]["metrics"]["perplexity"]


def _last_seconds(measured: Measured) -> str:
    return measured.failed or f"{measured.runs[-1]['method_seconds']:.2f} s"
