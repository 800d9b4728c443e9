"""One worker's process, from start to end: what it prints, the signals that it gets, the memory that it held."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import IO

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


def supervise(
    command: list[str], variables: Mapping[str, str], folder: Path, stdin: IO[bytes], outlets: Outlets, watch: Watch
) -> Exit:
    """Start `command` in `folder`, read, signal, reap.

    The worker's group is killed on every way out, before its id can be used again.
    """
    process = subprocess.Popen(  # noqa: S603  the environment's own Python
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=variables,
        start_new_session=True,
    )
    memory = PeakResident()
    assert process.stdout is not None and process.stderr is not None  # noqa: S101  they are pipes
    with process.stdout as stdout, process.stderr as stderr:
        outlets.open(stdout, stderr)
        try:
            while not _has_ended(process.pid):
                held = memory.sample(process.pid)
                if (demand := watch.due(None if held is None else held + held_below(process.pid))) is not None:
                    _signal_group(process.pid, demand)
                outlets.pump(_POLL_SECONDS)
        finally:
            _signal_group(process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        wall_seconds = watch.wall_seconds
        outlets.drain(_DRAIN_SECONDS)
    return Exit(watch.ending, process.returncode, wall_seconds, _peak(memory, usage.ru_maxrss * _KIB))


def _has_ended(pid: int) -> bool:
    """True once the process is a zombie. It is not reaped, so that its id stays taken."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _peak(memory: PeakResident, usage_bytes: int) -> int | None:
    """The kernel's final figure, unless it may be this process's own.

    A child's `ru_maxrss` starts at its parent's peak, carried over from before `exec`; a larger one is the child's.
    """
    inherited_bytes = getrusage(RUSAGE_SELF).ru_maxrss * _KIB
    return usage_bytes if usage_bytes > inherited_bytes else memory.peak_bytes
