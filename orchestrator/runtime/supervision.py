"""One worker's process, from start to end: what it prints, the signals that it gets, the memory that it held."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import IO, Protocol

from orchestrator.runtime.launch import Exit, Listener, Watch
from orchestrator.runtime.residency import PeakResident, held_below
from orchestrator.runtime.stream import TextLog

_POLL_SECONDS = 0.05
_DRAIN_SECONDS = 2.0
_CHUNK_BYTES = 1 << 16
_KIB = 1024


class Outlets:
    """A worker's two pipes, read side by side. What an escaped process keeps open is not waited for at the end."""

    def __init__(self, stdout: Listener, stderr: TextLog) -> None:
        self._takers = (stdout.feed, stderr.feed)
        self._pipes: dict[int, Callable[[bytes], None]] = {}

    def open(self, *pipes: IO[bytes]) -> None:
        """Take the worker's stdout and stderr."""
        for pipe, take in zip(pipes, self._takers, strict=True):
            os.set_blocking(pipe.fileno(), False)
            self._pipes[pipe.fileno()] = take

    def pump(self, timeout_seconds: float) -> bool:
        """Wait for output and hand on a piece of each. False when there was none, or no more can come."""
        if not self._pipes:
            time.sleep(timeout_seconds)  # closed, while the worker goes on
            return False
        with selectors.DefaultSelector() as selector:
            for pipe in self._pipes:
                selector.register(pipe, selectors.EVENT_READ)
            ready = [key.fd for key, _ in selector.select(timeout_seconds)]
        for pipe in ready:
            data = os.read(pipe, _CHUNK_BYTES)
            if data:
                self._pipes[pipe](data)
            else:
                del self._pipes[pipe]
        return bool(ready)

    def drain(self, seconds: float) -> None:
        """Read what the worker wrote before it ended."""
        give_up = time.monotonic() + seconds
        while self._pipes and time.monotonic() < give_up and self.pump(0.0):
            pass


class Worker(Protocol):
    """One that was started, in a session of its own. `pipes` are its stdout and stderr."""

    pid: int
    pipes: tuple[IO[bytes], IO[bytes]]

    def has_ended(self) -> bool:
        """True once it is a zombie. It is not reaped, so that its id stays taken."""
        ...

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its group, which may be gone."""
        ...

    def reap(self) -> tuple[int, int | None]:
        """Wait for its end. Returns its exit code, or -signal, and its peak of memory as far as the kernel tells."""
        ...


class StartedWorker:
    """A process of its own: `command`, started in `folder` with `variables` and nothing else of an environment."""

    def __init__(self, command: list[str], variables: Mapping[str, str], folder: Path, stdin: IO[bytes]) -> None:
        self._process = subprocess.Popen(  # noqa: S603  the environment's own Python
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=variables,
            start_new_session=True,
        )
        assert self._process.stdout is not None and self._process.stderr is not None  # noqa: S101  they are pipes
        self.pid = self._process.pid
        self.pipes = (self._process.stdout, self._process.stderr)

    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal(self, number: signal.Signals) -> None:
        signal_group(self.pid, number)

    def reap(self) -> tuple[int, int | None]:
        """The kernel's figure of memory may be this process's own.

        A child's `ru_maxrss` starts at its parent's peak, carried over from before `exec`; a larger one is the child's.
        """
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        inherited = usage.ru_maxrss <= getrusage(RUSAGE_SELF).ru_maxrss
        return self._process.returncode, None if inherited else usage.ru_maxrss * _KIB


def supervise(worker: Worker, outlets: Outlets, watch: Watch) -> Exit:
    """Read, signal, reap. The worker's group is killed on every way out, before its id can be used again."""
    memory = PeakResident()
    with worker.pipes[0] as stdout, worker.pipes[1] as stderr:
        outlets.open(stdout, stderr)
        try:
            while not worker.has_ended():
                held = memory.sample(worker.pid)
                if (demand := watch.due(None if held is None else held + held_below(worker.pid))) is not None:
                    worker.signal(demand)
                outlets.pump(_POLL_SECONDS)
        finally:
            worker.signal(signal.SIGKILL)
            exit_code, peak_bytes = worker.reap()
        wall_seconds = watch.wall_seconds
        outlets.drain(_DRAIN_SECONDS)
    return Exit(watch.ending, exit_code, wall_seconds, memory.peak_bytes if peak_bytes is None else peak_bytes)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process group, which may be gone."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return
