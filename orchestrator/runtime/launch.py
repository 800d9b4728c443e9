"""What the Docker and the process runtime share: a worker to start, when it must stop, an invocation around both."""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.contract import Device, Event, FinalEvent
from orchestrator.host.files import give
from orchestrator.host.scratch import own_scratch
from orchestrator.host.worker_user import worker_user
from orchestrator.images.image import Image
from orchestrator.runtime.base import Completed, Ending, Invocation, Lifetime, Runtime
from orchestrator.runtime.handed_over import handed_over
from orchestrator.runtime.reach import Reach, reach_of
from orchestrator.runtime.stream import EventStream
from orchestrator.stages import EVENTS_NAME, REQUEST_NAME, STDERR_NAME, Limits

LEAST_FREE_BYTES = 64 * 2**20
"""A worker that leaves less than this free, and half of what it found, is stopped: others write to that disk, too."""
OFFLINE_VARIABLES = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Launch:
    """One worker. `user` (uid, gid) is someone other than the caller, which only containers can be.

    With `hold_stdin` no end of file follows `stdin`: the worker waits, until it is stopped. `modules` are those of the
    harness that it may have imported before it gets its request; none for a fresh process.
    """

    image: Image
    stdin: bytes
    device: Device = field(default_factory=Device)
    limits: Limits = field(default_factory=Limits)
    environment: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Path] = field(default_factory=dict)
    output: Path | None = None
    reach: Reach = Reach.NOTHING
    run: str = "none"
    stage: str = "none"
    user: tuple[int, int] | None = None
    hold_stdin: bool = False
    modules: tuple[str, ...] = ()

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment variables that every worker gets, whatever runs it. `environment` is where it starts."""
        variables = OFFLINE_VARIABLES | self.device.variables(environment)
        if self.reach is Reach.HUB:
            variables["HF_HUB_OFFLINE"] = "0"
        if self.device.threads is not None:
            variables["OMP_NUM_THREADS"] = str(self.device.threads)
        return variables

    @property
    def secrets(self) -> frozenset[str]:
        """What it is given and nobody who reads its output may see."""
        return handed_over(self.reach)


@dataclass(frozen=True)
class Exit:
    """How a worker's process ended. `exit_code` is its own, or -signal."""

    ending: Ending
    exit_code: int
    wall_seconds: float
    peak_memory_bytes: int | None


class Listener(Protocol):
    """Takes a worker's stdout. Once it `is_broken` nothing more that the worker says counts."""

    def feed(self, data: bytes) -> None: ...

    @property
    def is_broken(self) -> bool: ...

    @property
    def has_answered(self) -> bool: ...


class Launcher(Runtime, Protocol):
    """A runtime that can start any worker with any stdin. All of the worker is gone when `launch` returns or raises."""

    def launch(self, work: Launch, stdout: Listener, stderr: Path, cancel: threading.Event) -> Exit: ...


def free_bytes(folder: Path) -> int:
    """What is free on a folder's disk for who is not root."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


class Watch:
    """Says when a worker must be signalled: SIGTERM at the deadline, on `cancel`, or when it does not end after its
    answer; SIGKILL when that did not help, for its memory, for the disk below its `output`, and once its contract is
    broken."""

    def __init__(self, limits: Limits, cancel: threading.Event, heard: Listener, output: Path | None = None) -> None:
        self._output = output
        self._least_free_bytes = 0 if output is None else min(LEAST_FREE_BYTES, free_bytes(output) // 2)
        self._limits = limits
        self._cancel = cancel
        self._heard = heard
        self._answered: float | None = None
        self._begin = time.monotonic()
        self._asked: float | None = None
        self._killed = False
        self.ending = Ending.EXITED

    @property
    def wall_seconds(self) -> float:
        return time.monotonic() - self._begin

    @property
    def is_over(self) -> bool:
        """Whether a worker that is there now would be asked to stop."""
        return self._cancel.is_set() or self.wall_seconds > self._limits.deadline_seconds

    def due(self, held_bytes: int | None = None) -> signal.Signals | None:
        """The signal to send now, each one once; None most of the time. `held_bytes` is held against the limit."""
        if self._asked is None:
            if held_bytes is not None and held_bytes > self._limits.most_memory_bytes:
                return self._stop(Ending.KILLED_FOR_MEMORY, signal.SIGKILL)
            if self._output is not None and free_bytes(self._output) < self._least_free_bytes:
                return self._stop(Ending.KILLED_FOR_DISK, signal.SIGKILL)
            if self._heard.is_broken:
                return self._stop(Ending.BROKE_CONTRACT, signal.SIGKILL)
            if self._cancel.is_set():
                return self._stop(Ending.CANCELLED, signal.SIGTERM)
            if self.wall_seconds > self._limits.deadline_seconds:
                return self._stop(Ending.TIMED_OUT, signal.SIGTERM)
            return self._overstays()
        if not self._killed and time.monotonic() - self._asked > self._limits.stop_seconds:
            self._killed = True
            return signal.SIGKILL
        return None

    def _overstays(self) -> signal.Signals | None:
        if self._answered is None:
            if self._heard.has_answered:
                self._answered = time.monotonic()
        elif time.monotonic() - self._answered > self._limits.leave_seconds:
            return self._stop(Ending.STAYED, signal.SIGTERM)
        return None

    def _stop(self, ending: Ending, how: signal.Signals) -> signal.Signals:
        self.ending = ending
        self._asked = time.monotonic()
        self._killed = how is signal.SIGKILL
        return how


def run_invocation(
    launcher: Launcher,
    invocation: Invocation,
    paths: tuple[Mapping[str, str], str],
    on_event: Callable[[Event], None],
    cancel: threading.Event,
    modules: tuple[str, ...] = (),
) -> Completed:
    """Write the request, launch the worker, collect its events. `paths`: inputs and output as the worker sees them.

    `modules` is as in `Launch`.
    """
    invocation.output.mkdir(exist_ok=True)  # and no folder above it: a store that was taken away stays so
    if (user := worker_user())[0] != os.geteuid():
        give(invocation.output, user)
    request = invocation.request(*paths).model_dump_json().encode()
    (invocation.folder / REQUEST_NAME).write_bytes(request)
    work = Launch(
        image=invocation.image,
        stdin=request,
        device=invocation.device,
        limits=invocation.limits,
        environment=invocation.environment,
        inputs=invocation.inputs,
        output=invocation.output,
        reach=reach_of(invocation.parameters),
        run=invocation.run,
        stage=invocation.stage,
        modules=modules,
    )
    with EventStream(invocation.folder / EVENTS_NAME, on_event, work.secrets) as stream:
        ended = launcher.launch(work, stream, invocation.folder / STDERR_NAME, cancel)
    return Completed(
        ending=ended.ending,
        exit_code=ended.exit_code,
        wall_seconds=ended.wall_seconds,
        final=stream.final,
        violation=stream.violation,
        peak_memory_bytes=ended.peak_memory_bytes,
        lifetime=Lifetime(ended.wall_seconds, stream.progress_seconds),
    )


@dataclass(frozen=True)
class RawAnswer:
    """What a worker did with raw bytes on its stdin. `final` and `violation` are what its stdout came to."""

    exit: Exit
    stdout_bytes: int
    final: FinalEvent | None
    violation: str | None
    stderr: bytes


def run_raw(launcher: Launcher, work: Launch, cancel: threading.Event | None = None) -> RawAnswer:
    """Launch a worker with any stdin. For checks of an image, not for stages."""
    with own_scratch() as scratch:
        log = scratch / STDERR_NAME
        with EventStream(scratch / EVENTS_NAME, lambda event: None, work.secrets) as stream:
            ended = launcher.launch(work, stream, log, cancel or threading.Event())
        return RawAnswer(ended, stream.heard_bytes, stream.final, stream.violation, log.read_bytes())
