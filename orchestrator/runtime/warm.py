"""Processes that keep imports ready: each forks one worker after the other, for work that nobody times.

Covered: which work may be done so, starting such a process, asking it for a worker, ending it. What the worker is and
does is `harness.warm`'s. One that failed, or whose worker did, is not started again: what comes then gets fresh ones.
"""

import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Self

from harness.contract import (
    REFERENCE_ENGINE,
    DeviceKind,
    EvaluateParameters,
    ExitCode,
    FidelityParameters,
    Operation,
    work_source,
)
from harness.contract.warm import ANSWERED, ASKED, MESSAGE_BYTES, Begun, Ended, Order, Reap, Reaped, Refused
from orchestrator.images.inputs import own_modules
from orchestrator.runtime.base import Invocation
from orchestrator.runtime.launch import Watch
from orchestrator.runtime.stream import TextLog
from orchestrator.runtime.supervision import signal_group

HOME_OF_EACH = "/proc/self/cwd"
"""What libraries take for the home when they are imported: of each process its own, since it begins in it."""

_FRESH = frozenset({Operation.FETCH, Operation.COMPRESS, Operation.PROFILE, Operation.BENCHMARK})
"""Operations whose time and memory are results; and fetches, which import little of all that any of them may need."""
_ANSWERS = frozenset({ExitCode.RESULT, ExitCode.BAD_REQUEST, ExitCode.UNSUPPORTED})
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 5.0
"""For what a process has nothing to do before: to answer that it reaped, or to end."""


def modules_of(invocation: Invocation) -> tuple[str, ...]:
    """The modules of the harness that the worker may import; none where it has to be a fresh process.

    That is for some operations, on a GPU, and where what it imports is not the harness's alone to choose: images with
    modules or a command of their own, engines of others.
    """
    image, asked = invocation.image, invocation.parameters
    if (
        invocation.operation in _FRESH
        or invocation.device.kind is not DeviceKind.CPU
        or own_modules(image)
        or image.description.command
        or (isinstance(asked, EvaluateParameters | FidelityParameters) and asked.engine != REFERENCE_ENGINE)
    ):
        return ()
    files = work_source(image.description, invocation.operation, asked)
    names = (Path(name) for name in files if name.endswith(".py"))
    modules = (".".join(name.with_suffix("").parts).removesuffix(".__init__") for name in names)
    return tuple(name for name in modules if not name.endswith(".__main__"))


class NoWorker(Exception):
    """Why a process that keeps imports ready gave no worker."""


class WarmServer:
    """Such a process, in a session of its own. `variables` are its whole environment, `folder` its own."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  the environment's own Python
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=variables,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and the worker that it may have."""
        self._socket.close()
        signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def worker(self, order: Order, stdin: IO[bytes], watch: Watch) -> "WarmWorker":
        """Have a worker forked, which may take as long as the imports do.

        Raises:
            NoWorker: it was refused, or this process failed, or the watch was over before there was one.
        """
        with ExitStack() as stack:
            (ours_out, stdout), (ours_err, stderr) = os.pipe(), os.pipe()
            out, err = (stack.enter_context(os.fdopen(pipe, "rb", buffering=0)) for pipe in (ours_out, ours_err))
            try:
                socket.send_fds(self._socket, [ASKED.dump_json(order)], [stdin.fileno(), stdout, stderr])
            except OSError as failure:
                raise NoWorker(f"what keeps imports ready is gone: {failure}") from failure
            finally:
                os.close(stdout)
                os.close(stderr)
            begun = self._first_word(watch)
            stack.pop_all()
            return WarmWorker(self, begun.pid, (out, err))

    def _first_word(self, watch: Watch) -> Begun:
        while not self.has_said(_POLL_SECONDS):
            if watch.is_over:
                raise NoWorker("it was stopped before its imports were done")
        match self.heard():
            case Begun() as begun:
                return begun
            case Refused() as refused:
                raise NoWorker(refused.reason)
        raise NoWorker("what keeps imports ready failed")

    def has_said(self, timeout_seconds: float = 0.0) -> bool:
        """Whether there is something to be heard, be it the end."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(timeout_seconds * 1000))

    def heard(self) -> object:
        """What it said; None where it is gone, or said what makes no sense."""
        try:
            return ANSWERED.validate_json(self._socket.recv(MESSAGE_BYTES))
        except (OSError, ValueError):
            return None

    def reap(self) -> Reaped | None:
        """How the worker that has ended did so; None where nobody can tell."""
        try:
            self._socket.send(ASKED.dump_json(Reap()))
        except OSError:
            return None
        said = self.heard() if self.has_said(_PATIENCE_SECONDS) else None
        return said if isinstance(said, Reaped) else None


class WarmWorker:
    """A worker that a `WarmServer` has forked; see `orchestrator.runtime.supervision.Worker`."""

    def __init__(self, server: WarmServer, pid: int, pipes: tuple[IO[bytes], IO[bytes]]) -> None:
        self.pid = pid
        self.pipes = pipes
        self._server = server
        self._is_lost = False
        self._has_ended = False
        self._exit_code: int | None = None

    @property
    def has_answered(self) -> bool:
        """Whether it has come to an end by which nothing speaks against the next one."""
        return self._exit_code in _ANSWERS

    def has_ended(self) -> bool:
        if not self._has_ended and self._server.has_said():
            self._has_ended = True
            self._is_lost = not isinstance(self._server.heard(), Ended)
        return self._has_ended

    def signal(self, number: signal.Signals) -> None:
        if not self._is_lost:  # its id may be another's by now
            signal_group(self.pid, number)

    def reap(self) -> tuple[int, int | None]:
        while not self.has_ended():
            time.sleep(_POLL_SECONDS)
        told = None if self._is_lost else self._server.reap()
        if told is None:
            self._is_lost = True
            return -signal.SIGKILL, None
        self._exit_code = os.waitstatus_to_exitcode(told.status)
        return self._exit_code, told.peak_memory_bytes


class WarmServers:
    """One `WarmServer` of each kind, started when it is first wanted. Safe to use from several threads.

    A kind is whatever two workers have to have in common to be forks of one process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Hashable, tuple[WarmServer, ExitStack]] = {}
        self._at_work: set[Hashable] = set()
        self._failed: set[Hashable] = set()

    @contextmanager
    def worker(
        self,
        kind: Hashable,
        start: Callable[[ExitStack], WarmServer],
        order: Order,
        stdin: IO[bytes],
        watch: Watch,
        log: TextLog,
    ) -> Iterator[WarmWorker | None]:
        """A worker of this kind. None where its server is at work already, or failed; where it does so now, `log` says
        why. One that gave no answer is the last of its kind.

        `start` starts a server, and leaves on the stack what is to be done when it has ended.
        """
        with self._taken(kind, start) as server:
            worker = None
            try:
                if server is not None:
                    worker = server.worker(order, stdin, watch)
            except NoWorker as why:
                log.feed(f"[no warm worker, so a fresh process: {why}]\n".encode())
            try:
                yield worker
            finally:
                if server is not None and (worker is None or not worker.has_answered):
                    self._give_up(kind)

    @contextmanager
    def _taken(self, kind: Hashable, start: Callable[[ExitStack], WarmServer]) -> Iterator[WarmServer | None]:
        """The server of a kind, which serves nobody else meanwhile."""
        with self._lock:
            is_free = kind not in self._at_work | self._failed
            if is_free:
                self._at_work.add(kind)
        if not is_free:
            yield None
            return
        try:
            yield self._server(kind, start)
        finally:
            with self._lock:
                self._at_work.discard(kind)

    def _give_up(self, kind: Hashable) -> None:
        with self._lock:
            self._failed.add(kind)
            _, stack = self._kept.pop(kind, (None, ExitStack()))
        stack.close()

    def close(self) -> None:
        """End all of them."""
        with self._lock, ExitStack() as stack:
            for _, one in self._kept.values():
                stack.push(one)
            self._kept.clear()

    def _server(self, kind: Hashable, start: Callable[[ExitStack], WarmServer]) -> WarmServer:
        if kind not in self._kept:
            with ExitStack() as stack:
                server = stack.enter_context(start(stack))
                self._kept[kind] = server, stack.pop_all()
        return self._kept[kind][0]
