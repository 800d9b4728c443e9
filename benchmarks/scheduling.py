"""Measures how well a run is spread: over eight invented GPUs, and over several orchestrators on one store.

    .venv/bin/python benchmarks/scheduling.py
    .venv/bin/python benchmarks/scheduling.py --write

The paper's generalization (`manifests/paper-generalization.yaml`) with times that are assumed for an H200: in virtual
time, and scaled down with stages that sleep. Then orchestrators with a GPU each, processes of their own, on a run whose
stages sleep. No GPU is needed, and none was used. With `--write` the table of docs/scale.md is written anew.
"""

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.scale import machine
from harness.contract import Device, DeviceKind, FetchRequest, HubModel, WorkRequest, WorkResult
from harness.contract.result import FetchResult
from orchestrator.host.devices import ChosenDevice
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import find_manifest, shipped_images
from orchestrator.manifest import Manifest, read_manifest
from orchestrator.plan import build_plan
from orchestrator.run import resources
from orchestrator.run.execution import Perform
from orchestrator.run.expected import expected_seconds
from orchestrator.run.progress import SilentDisplay
from orchestrator.run.run import Run, Setup
from orchestrator.run.scheduling import End, LocalExecutor
from orchestrator.stages import Stage
from orchestrator.store import Store
from tests.support.fake_runtime import FakeRuntime
from tests.support.stage_workers import checkpoint, honest_worker
from tests.support.virtual_time import assumed_seconds, least_seconds, simulate

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
TABLE = re.compile(r"(?<=<!-- spread -->\n).*(?=<!-- end of spread -->)", re.DOTALL)
GPUS = 8
MODEL = "an invented GPU"
SHARED: dict[str, Any] = {
    "name": "shared",
    "models": [
        {"name": f"m{number}", "source": f"hub:org/m{number}@{number:040x}", "architecture": "LlamaForCausalLM"}
        for number in range(8)
    ],
    "compress": [{"method": "sparsegpt", "setting": one} for one in ("40%", "50%", "2:4")],
    "evaluate": {"tasks": ["wikitext2", "arc_easy", "piqa", "winogrande"]},
}


def setup_of(manifest: Manifest, store: Path, uuids: tuple[str, ...], seconds: float = 0.0) -> Setup:
    """A run on these invented GPUs, whose workers sleep for so long."""

    def worker(request: WorkRequest, output: Path) -> WorkResult:
        time.sleep(seconds)
        if isinstance(request, FetchRequest) and isinstance(source := request.parameters.source, HubModel):
            return FetchResult(artifact=checkpoint(output, f"hub:{source.repository}@{source.revision}"))
        return honest_worker(request, output)

    catalog, device = ImageCatalog(shipped_images()), Device(kind=DeviceKind.CUDA, uuids=uuids)
    plan = build_plan(manifest, catalog, device, None)
    return Setup(
        manifest, plan, catalog, Store(store), FakeRuntime(worker), ChosenDevice(device, MODEL, "invented"), ()
    )


def eight_gpus(folder: Path, times_faster: float) -> Iterator[tuple[str, float]]:
    """The paper's generalization: what it takes in hours."""
    manifest = read_manifest(find_manifest(Path("paper-generalization")))
    setup = setup_of(manifest, folder / "none", tuple(f"GPU-{number}" for number in range(GPUS)))
    stages = setup.plan.stages
    seconds = assumed_seconds(stages, {model.name: model.parameters for model in manifest.models})
    expected = expected_seconds(setup, stages)
    yield f"lower bound of {len(stages)} stages on {GPUS} GPUs, in hours", least_seconds(stages, seconds, GPUS) / 3600
    yield "virtual time, times known from earlier runs", simulate(stages, seconds, seconds).seconds / 3600
    yield "virtual time, times expected from sizes alone", simulate(stages, seconds, expected).seconds / 3600
    yield "virtual time, in the order of the plan", simulate(stages, seconds).seconds / 3600
    one = setup_of(manifest, folder / "none", ("GPU-0",)).plan.stages
    yield "virtual time, one GPU", simulate(one, seconds).seconds / 3600

    def work(stage: Stage, perform: Perform) -> End:
        time.sleep(seconds[stage.id] / times_faster)
        return End.RESULT

    begin = time.monotonic()
    LocalExecutor(threading.Event(), expected).run(stages, work, lambda *_: None)
    took = (time.monotonic() - begin) * times_faster / 3600
    yield f"real time, {times_faster:g} times faster, times expected from sizes alone", took


def orchestrate(
    folder: Path, number: int, seconds: float, begin: Barrier, end: Callable[[tuple[float, int]], None]
) -> None:
    """One orchestrator of several."""
    resources.device_lock_path = lambda name: folder / "locks" / f"device-{name}.lock"
    setup = setup_of(Manifest.model_validate(SHARED), folder / "store", (f"GPU-{number}",), seconds)
    begin.wait()
    cancel, started = threading.Event(), time.monotonic()
    record = Run(setup, SilentDisplay(), cancel).perform(LocalExecutor(cancel))
    if not record.complete:
        raise SystemExit("the run is not complete")
    end((time.monotonic() - started, len(setup.runtime.requests)))


def orchestrators(folder: Path, count: int, seconds: float) -> tuple[float, list[int]]:
    """How long all of them took, and how many stages each of them did."""
    fork = multiprocessing.get_context("fork")
    (folder / "locks").mkdir(parents=True)
    begin, results = fork.Barrier(count), fork.SimpleQueue()
    running = [
        fork.Process(target=orchestrate, args=(folder, number, seconds, begin, results.put)) for number in range(count)
    ]
    for one in running:
        one.start()
    ended = [results.get() for _ in running]
    for one in running:
        one.join()
    return max(took for took, _ in ended), [stages for _, stages in ended]


def rows(folder: Path, times_faster: float, seconds: float) -> Iterator[tuple[str, str]]:
    for what, hours in eight_gpus(folder, times_faster):
        yield what, f"{hours:.2f}"
    alone = None
    for count in (1, 2, 4):
        took, shares = orchestrators(folder / str(count), count, seconds)
        alone = alone or took
        who = "one orchestrator" if count == 1 else f"{count} orchestrators on one store"
        shared = f"{took:.1f} s; stages done: {', '.join(map(str, shares))}"
        yield (
            f"{who}, a GPU each, {sum(shares)} stages that sleep {seconds:g} s",
            (shared if count == 1 else f"{shared}; speed-up {alone / took:.2f}"),
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--times-faster", type=float, default=800.0)
    arguments.add_argument("--seconds", type=float, default=0.5, help="for which each stage of the shared run sleeps")
    arguments.add_argument("--folder", type=Path, help="where stores are made; a temporary folder by default")
    arguments.add_argument("--where", default=machine(), help="the machine, as the table names it")
    arguments.add_argument("--write", action="store_true", help="write the table of docs/scale.md")
    given = arguments.parse_args()
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {given.where}; every GPU is invented.",
        "",
        "| | |",
        "| --- | --- |",
    ]
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        for what, found in rows(Path(temporary), given.times_faster, given.seconds):
            print(json.dumps([what, found]), flush=True)
            lines.append(f"| {what} | {found} |")
    if given.write:
        text = "\n".join([*lines, ""])
        PAGE.write_text(TABLE.sub(lambda _: text, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
