"""A hostile worker, run by either real runtime. Docker needs nothing but the base image; processes need no package."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.contract import DatasetSource, Device, DeviceKind, EvaluateParameters, Event, FetchParameters, Operation
from orchestrator.images.image import Image
from orchestrator.runtime.base import Completed, Invocation
from orchestrator.runtime.docker import RUN_LABEL, DockerRuntime
from orchestrator.runtime.process import RUNNING_NAME, ProcessRuntime
from orchestrator.runtime.survivors import INVOCATION_VARIABLE
from orchestrator.stages import Limits
from tests.support.containers import engine_or_skip

HOSTILE = Path(__file__).parent / "hostile"


@dataclass
class Bench:
    """One runtime and the hostile image, prepared."""

    runtime: DockerRuntime | ProcessRuntime
    image: Image
    root: Path
    run_name: str = f"hostile-{os.getpid()}"
    runs: int = 0
    events: list[Event] = field(default_factory=list)

    def invocation(self, task: str, **changes: object) -> Invocation:
        self.runs += 1
        folder = self.root / f"run-{self.runs}"
        folder.mkdir(parents=True)
        asked: dict[str, object] = {
            "image": self.image,
            "operation": Operation.EVALUATE,
            "parameters": EvaluateParameters(task=task),
            "folder": folder,
            "stage": f"stage-{self.runs}",
            "run": self.run_name,
            "device": Device(threads=1),
            "limits": Limits(deadline_seconds=60, stop_seconds=1),
        }
        return Invocation(**(asked | changes))  # type: ignore[arg-type]

    def run(
        self,
        invocation: Invocation,
        on_event: Callable[[Event], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Completed:
        return self.runtime.run(invocation, on_event or self.events.append, cancel or threading.Event())

    def do(self, task: str, **changes: object) -> Completed:
        return self.run(self.invocation(task, **changes))

    def fetch(self, task: str) -> Completed:
        """The same worker with the one operation that has a network."""
        parameters = FetchParameters(source=DatasetSource(name=task))
        return self.do(task, operation=Operation.FETCH, parameters=parameters)

    def left_behind(self) -> list[str]:
        """Containers, processes and records of workers that should be gone."""
        if isinstance(self.runtime, DockerRuntime):
            containers = engine_or_skip().containers.list(all=True, filters={"label": f"{RUN_LABEL}={self.run_name}"})
            return [str(container.name) for container in containers]
        return [*_workers_below(self.root), *(path.name for path in (self.root / "store" / RUNNING_NAME).glob("*"))]


def _workers_below(root: Path) -> list[str]:
    """Processes of workers that this store has started, whatever session they have moved to."""
    needles = (INVOCATION_VARIABLE.encode() + b"=", os.fsencode(root))
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes()
        except OSError:
            continue
        if all(needle in variables for needle in needles):
            found.append(entry.name)
    return found


@pytest.fixture
def processes(hostile: Image, tmp_path: Path) -> Bench:
    runtime = ProcessRuntime(tmp_path / "store", worker=(str(HOSTILE / "worker.py"),))
    runtime.prepare(hostile, DeviceKind.CPU, lambda note: None)
    return Bench(runtime, hostile, tmp_path)


@pytest.fixture
def containers(hostile: Image, tmp_path: Path) -> Bench:
    engine_or_skip()
    runtime = DockerRuntime()
    runtime.prepare(hostile, DeviceKind.CPU, lambda note: None)
    return Bench(runtime, hostile, tmp_path)


@pytest.fixture(params=["processes", pytest.param("containers", marks=pytest.mark.docker)])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Either runtime; every test also checks that nothing is left behind."""
    found: Bench = request.getfixturevalue(request.param)
    yield found
    assert found.left_behind() == []
