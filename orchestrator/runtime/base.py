"""The point of cut-off between what a stage is and how it is run: one protocol, three runtimes behind it."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from harness.contract import (
    REQUEST,
    Device,
    DeviceKind,
    Event,
    FinalEvent,
    Operation,
    Parameters,
    TaskDescription,
    WorkRequest,
)
from orchestrator.images.image import Image
from orchestrator.stages import OUTPUT_NAME, ImageIdentity, Limits


class RuntimeName(StrEnum):
    DOCKER = "docker"
    PROCESS = "process"
    FAKE = "fake"


@dataclass(frozen=True)
class Invocation:
    """One request to one image. `folder` is the attempt's own; the worker's output goes to `folder / "out"`.

    `task` is what an evaluation is of, as the image that defines it describes it; None for all else.
    """

    image: Image
    operation: Operation
    parameters: Parameters
    folder: Path
    stage: str
    run: str
    inputs: Mapping[str, Path] = field(default_factory=dict)
    device: Device = field(default_factory=Device)
    limits: Limits = field(default_factory=Limits)
    environment: Mapping[str, str] = field(default_factory=dict)
    task: TaskDescription | None = None

    @property
    def output(self) -> Path:
        return self.folder / OUTPUT_NAME

    def request(self, inputs: Mapping[str, str], output: str) -> WorkRequest:
        """The request as the worker will see it, with the paths that the runtime gives its inputs and output."""
        request = REQUEST.validate_python(
            {
                "id": self.stage,
                "operation": self.operation.value,
                "device": self.device,
                "inputs": dict(inputs),
                "output": output,
                "parameters": self.parameters,
            }
        )
        assert isinstance(request, WorkRequest)  # noqa: S101  describe is never an invocation
        return request


class Ending(StrEnum):
    """How the worker's process ended, as the host saw it.

    `broke_contract`: it was killed since nothing that it said any more would count. `stayed`: it had answered, and did
    not end.
    """

    EXITED = "exited"
    TIMED_OUT = "timed_out"
    BROKE_CONTRACT = "broke_contract"
    STAYED = "stayed"
    CANCELLED = "cancelled"
    KILLED_FOR_MEMORY = "killed_for_memory"
    KILLED_FOR_DISK = "killed_for_disk"


@dataclass(frozen=True)
class Lifetime:
    """How long a worker's process or container was there, and how long it told of progress: from the first such event
    to the last."""

    seconds: float
    progress_seconds: float = 0.0


@dataclass(frozen=True)
class Completed:
    """What the host observed. `exit_code` is the worker's own, or -signal; `peak_memory_bytes` is None where unknown.

    `final` and `violation` are what `EventStream` made of the worker's stdout. `lifetime` is None where no process was.
    """

    ending: Ending
    exit_code: int
    wall_seconds: float
    final: FinalEvent | None
    violation: str | None = None
    peak_memory_bytes: int | None = None
    lifetime: Lifetime | None = None


class Runtime(Protocol):
    """Runs invocations. Implementations map every library exception to `OrchestratorError` at this boundary."""

    @property
    def name(self) -> RuntimeName: ...

    def prepare(self, image: Image, device: DeviceKind, note: Callable[[str], None]) -> ImageIdentity:
        """Make `image` runnable, building it where needed, and say what exactly will run. Instant when nothing changed.

        Raises:
            BadImage: it cannot be built.
            RuntimeUnavailable: the engine or interpreter does not answer.
        """
        ...

    def identity(self, image: Image, device: DeviceKind) -> ImageIdentity | None:
        """What `prepare` would return, where nothing needs building for it; None where something does."""
        ...

    def run(self, invocation: Invocation, on_event: Callable[[Event], None], cancel: threading.Event) -> Completed:
        """Run to the end, the deadline or `cancel`. No process or container of it is left on any path.

        Writes `request.json`, `events.jsonl` and `stderr.log` (through `EventStream` and `TextLog`, which bound them)
        into the invocation's folder.
        """
        ...

    def sweep(self) -> tuple[str, ...]:
        """Remove what dead owners left behind, and name it."""
        ...

    def close(self) -> None:
        """End what is kept ready between invocations. There may be more of these afterwards."""
        ...
