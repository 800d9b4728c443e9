"""Measures what the orchestrator itself costs, in CPU seconds and memory, by the number of stages of a run.

    .venv/bin/python benchmarks/scale.py --sizes 1000,10000 --folder /dev/shm
    .venv/bin/python benchmarks/scale.py --sizes 1000,10000,100000 --write

Workers are the tests' stand-ins, which answer at once in the orchestrator's own process: what they cost is counted,
too. Each phase is a process of its own, and its figures are without importing. A model is 128 stages: a fetch, seven
compressions, and of each of the eight checkpoints twelve evaluations, a profile and two benchmarks. With `--write` the
table of docs/scale.md is written anew; with `--profile` the dearest functions of each phase are printed.
"""

import argparse
import contextlib
import cProfile
import io
import json
import math
import os
import pstats
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "scale.md"
TABLE = re.compile(r"(?<=<!-- measured -->\n).*(?=<!-- end of measured -->)", re.DOTALL)
METHODS = (
    "sparsegpt 50%",
    "sparsegpt 40%",
    "sparsegpt 2:4",
    "wanda 50%",
    "wanda 40%",
    "magnitude 50%",
    "rtn W4A16g128",
)
TASKS = (
    *(
        "mmlu",
        "arc_easy",
        "arc_challenge",
        "hellaswag",
        "piqa",
        "winogrande",
        "qnli",
        "mnli",
        "advglue",
        "sciq-support",
    ),
    *("wikitext2", "wikitext2-words"),
)
BACKENDS = ("transformers", "native")
STAGES_OF_A_MODEL = 1 + len(METHODS) + (1 + len(METHODS)) * (len(TASKS) + 1 + len(BACKENDS))
SHOWN_FUNCTIONS = 25


@dataclass(frozen=True)
class Measured:
    """What one phase cost. `stages` are those of the plan."""

    phase: str
    stages: int
    cpu_seconds: float
    system_seconds: float
    wall_seconds: float
    peak_memory_bytes: int


def manifest_of(size: int) -> dict[str, object]:
    """A manifest of about `size` stages, as a file holds it."""
    models = max(1, round(size / STAGES_OF_A_MODEL))
    return {
        "schema_version": 1,
        "name": "scale",
        "models": [
            {
                "name": f"m{number:05}",
                "family": f"f{number % 10}",
                "source": f"hub:org/m{number:05}@{number:040x}",
                "architecture": "LlamaForCausalLM",
                "parameters": 10,
            }
            for number in range(models)
        ],
        "compress": [dict(zip(("method", "setting"), one.split(), strict=True)) for one in METHODS],
        "evaluate": {"tasks": list(TASKS)},
        "profile": {},
        "benchmark": {"backends": list(BACKENDS), "batch_sizes": [1]},
        "rounds": {"benchmark": 1, "profile": 1},
        "device": "cpu",
        "runtime": "process",
    }


class Phases:
    """What can be measured of the manifest and the store in a folder."""

    def __init__(self, folder: Path) -> None:
        from harness.contract import Device, FetchRequest, HubModel, WorkRequest, WorkResult
        from harness.contract.result import FetchResult
        from orchestrator.host.devices import ChosenDevice
        from orchestrator.images.catalog import ImageCatalog
        from orchestrator.installation import shipped_images
        from tests.support.fake_runtime import FakeRuntime
        from tests.support.stage_workers import checkpoint, honest_worker

        def worker(request: WorkRequest, output: Path) -> WorkResult:
            if isinstance(request, FetchRequest) and isinstance(source := request.parameters.source, HubModel):
                return FetchResult(artifact=checkpoint(output, f"hub:{source.repository}@{source.revision}"))
            return honest_worker(request, output)

        class Forgetting(list[WorkRequest]):
            """A hundred thousand requests are kept by nobody."""

            def append(self, request: WorkRequest) -> None: ...

        self.manifest, self.store = folder / "scale.yaml", folder / "store"
        self.catalog = ImageCatalog(shipped_images())
        self.device = ChosenDevice(Device(threads=1), "test processor", "cpu: asked for")
        self.runtime = FakeRuntime(worker)
        self.runtime.requests = Forgetting()

    def setup(self) -> object:
        from orchestrator.manifest import read_manifest
        from orchestrator.plan import build_plan
        from orchestrator.run.run import Setup
        from orchestrator.store import Store

        asked = read_manifest(self.manifest)
        plan = build_plan(asked, self.catalog, self.device.device, None)
        return Setup(asked, plan, self.catalog, Store(self.store), self.runtime, self.device, ())

    def plan(self) -> None:
        self.setup()

    def preview(self) -> None:
        from orchestrator.run.estimate import estimate
        from orchestrator.run.preview import look_ahead, preview

        setup = self.setup()
        known = look_ahead(setup)
        for stage in preview(setup, known):
            json.dumps(stage.model_dump(mode="json"), ensure_ascii=False)
        _ = estimate(setup, known).lines

    def run(self) -> None:
        from orchestrator.run import resources
        from orchestrator.run.progress import SilentDisplay
        from orchestrator.run.run import Run
        from orchestrator.run.scheduling import LocalExecutor

        resources.device_lock_path = lambda name: self.store.parent / f"device-{name}.lock"  # nobody is waited for
        cancel = threading.Event()
        record = Run(self.setup(), SilentDisplay(), cancel).perform(LocalExecutor(cancel))
        if not record.complete:
            failed = next((name, one.failure) for name, one in record.stages.items() if not one.has_result)
            raise SystemExit(f"the run is not complete: {failed}")

    again = run

    def status(self) -> None:
        self._command("status")

    def score(self) -> None:
        self._command("score", "--json")

    def report(self) -> None:
        self._command("report")

    def _command(self, *arguments: str) -> None:
        from orchestrator.cli.app import app

        with contextlib.redirect_stdout(io.StringIO()):
            app([*arguments, "--store", str(self.store)], standalone_mode=False)


PHASES = ("plan", "preview", "run", "again", "status", "score", "report")


def perform(phase: str, folder: Path, profile: bool) -> Measured:
    """One phase, in this process."""
    phases = Phases(folder)
    work: Callable[[], None] = getattr(phases, phase)
    from orchestrator.cli import app, inspection, measuring, scoring  # noqa: F401  their imports are not measured
    from orchestrator.manifest import read_manifest

    stages = len(read_manifest(folder / "scale.yaml").models) * STAGES_OF_A_MODEL
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    if profile:
        watch = cProfile.Profile(time.process_time)
        watch.runcall(work)
        pstats.Stats(watch, stream=sys.stderr).sort_stats("tottime").print_stats(SHOWN_FUNCTIONS)
        pstats.Stats(watch, stream=sys.stderr).sort_stats("cumtime").print_stats(3 * SHOWN_FUNCTIONS)
    else:
        work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    return Measured(
        phase=phase,
        stages=stages,
        cpu_seconds=after.ru_utime - before.ru_utime + system,
        system_seconds=system,
        wall_seconds=time.monotonic() - begin,
        peak_memory_bytes=after.ru_maxrss * 1024,
    )


def measure(sizes: Iterable[int], phases: Sequence[str], folder: Path, *, profile: bool, keep: bool) -> list[Measured]:
    """Each phase at each size, in processes of their own."""
    import yaml

    found = []
    for size in sizes:
        place = folder / f"scale-{size}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "scale.yaml").write_text(yaml.safe_dump(manifest_of(size), sort_keys=False), encoding="utf-8")
        for phase in phases:
            command = [sys.executable, __file__, "--phase", phase, "--folder", str(place)]
            answer = subprocess.run(
                [*command, *(["--profile"] if profile else [])], stdout=subprocess.PIPE, text=True, check=True
            )
            found.append(Measured(**json.loads(answer.stdout)))
            print(json.dumps(asdict(found[-1])), flush=True)
        if not keep:
            shutil.rmtree(place)
    return found


def growth(measured: Sequence[Measured]) -> float | None:
    """The exponent between the smallest and the largest size."""
    if len(measured) < 2:
        return None
    least, most = measured[0], measured[-1]
    return math.log(most.cpu_seconds / least.cpu_seconds) / math.log(most.stages / least.stages)


def machine() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{names[0] if names else 'an unnamed processor'}, {os.cpu_count()} threads"


def table(measured: Iterable[Measured], when: str, where: str) -> str:
    """For docs/scale.md."""
    by_phase: dict[str, list[Measured]] = {}
    for one in sorted(measured, key=lambda one: one.stages):
        by_phase.setdefault(one.phase, []).append(one)
    sizes = sorted({one.stages for ones in by_phase.values() for one in ones})
    head = ["phase", *(f"{size} stages" for size in sizes), "growth"]
    lines = [
        f"Measured {when} on {where}: CPU seconds / peak memory.",
        "",
        f"| {' | '.join(head)} |",
        "| --- " * len(head) + "|",
    ]
    for phase, ones in by_phase.items():
        cells = {one.stages: f"{one.cpu_seconds:.2f} s / {one.peak_memory_bytes / 2**20:.0f} MiB" for one in ones}
        exponent = growth(ones)
        row = [phase, *(cells.get(size, "") for size in sizes), "" if exponent is None else f"n^{exponent:.2f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sizes", default="1000,10000")
    arguments.add_argument("--phases", default=",".join(PHASES))
    arguments.add_argument("--folder", type=Path, help="where stores are made; a temporary folder by default")
    arguments.add_argument("--keep", action="store_true", help="leave the stores there")
    arguments.add_argument("--profile", action="store_true")
    arguments.add_argument("--write", action="store_true", help="write the table of docs/scale.md")
    arguments.add_argument("--where", default=machine(), help="the machine, as the table names it")
    arguments.add_argument("--phase", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.phase:
        print(json.dumps(asdict(perform(given.phase, given.folder, given.profile))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        sizes = [int(one) for one in given.sizes.split(",")]
        measured = measure(sizes, given.phases.split(","), folder, profile=given.profile, keep=given.keep)
    text = table(measured, f"{datetime.now(UTC):%Y-%m-%d}", given.where)
    print(text)
    if given.write:
        PAGE.write_text(TABLE.sub(lambda _: text, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
