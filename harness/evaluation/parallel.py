"""One task on several processes: one for each GPU, which sees that one alone, or several that share a CPU's threads.

Each process loads the model for itself. Pieces are handed out one after the other to whoever is free, with one piece in
reserve, so that a slow process delays the others by a piece at most. Whatever a process prints goes to stderr. When one
ends on its own, all are stopped.
"""

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from harness.contract import DeviceKind, harness_folder
from harness.errors import WorkerError
from harness.evaluation.engine import EngineFacts, EngineJob, Report, TokenCounts
from harness.evaluation.messages import Failed, FromWorker, Ready, Remark, Scored
from harness.evaluation.pieces import Answered, Piece

_PIECES_AHEAD = 2
_STOP_SECONDS = 10.0
_TAIL_LINES = 15


class ParallelEngine:
    """Starts one process for each job; see `harness.evaluation.engine.Engine`.

    Raises:
        WorkerError: a process failed, in the way that it says; or ended without a word.
    """

    def __init__(self, jobs: Sequence[EngineJob], report: Report) -> None:
        self.tokens = TokenCounts()
        self._report = report
        self._workers: list[_Worker] = []
        try:
            for number, job in enumerate(jobs):
                self._workers.append(_Worker(number, job))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def facts(self) -> EngineFacts:
        """What the first process settled, once all are ready; the seconds are those of the slowest."""
        while any(worker.facts is None for worker in self._workers):
            for _ in self._messages():
                pass
        facts = [worker.facts for worker in self._workers if worker.facts is not None]
        return EngineFacts(
            dtype=facts[0].dtype,
            dtype_reason=facts[0].dtype_reason,
            load_seconds=max(one.load_seconds for one in facts),
            quantization_note=facts[0].quantization_note,
            processes=len(facts),
        )

    def answers(self, pieces: Iterable[Piece]) -> Iterator[Answered]:
        """Answers in the order in which they come, from all processes."""
        waiting = iter(pieces)
        for _ in range(_PIECES_AHEAD):
            for worker in self._workers:
                worker.give(next(waiting, None))
        while any(worker.pieces for worker in self._workers):
            for worker, message in self._messages():
                self.tokens += message.tokens
                if message.answered.ends_piece:
                    worker.pieces -= 1
                    worker.give(next(waiting, None))
                yield message.answered

    def _messages(self) -> Iterator[tuple["_Worker", Scored]]:
        """Wait for messages; scored pieces are handed on, all else is dealt with here."""
        by_connection: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection)):
            worker = by_connection[connection]
            message = worker.receive()
            match message:
                case Scored():
                    yield worker, message
                case Ready(facts):
                    worker.facts = facts
                case Remark(text):
                    self._report(text)
                case Failed():
                    raise message.error()

    def _stop(self) -> None:
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.stop()


class _Worker:
    """One process from the parent's side. `pieces` counts those that it has and has not finished."""

    def __init__(self, number: int, job: EngineJob) -> None:
        self.facts: EngineFacts | None = None
        self.pieces = 0
        self._name = f"evaluation process {number + 1} on {' '.join((job.device.kind.value, *job.device.uuids))}"
        self._tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self.connection, theirs = Pipe()
        with theirs:
            self._process = _start(job, theirs)
        self._printer = threading.Thread(target=self._pass_on, name=self._name, daemon=True)
        self._printer.start()
        self._send(job)

    def give(self, piece: Piece | None) -> None:
        if piece is not None:
            self.pieces += 1
            self._send(piece)

    def receive(self) -> FromWorker:
        try:
            message: FromWorker = self.connection.recv()
        except (EOFError, OSError) as gone:
            raise self._death() from gone
        return message

    def stop(self) -> None:
        """End the process, which sees that its connection is closed, and collect what it printed."""
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._printer.join(_STOP_SECONDS)

    def _send(self, message: EngineJob | Piece) -> None:
        try:
            self.connection.send(message)
        except OSError as gone:
            raise self._death() from gone

    def _death(self) -> WorkerError:
        self.stop()
        status = self._process.returncode
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        last = b"".join(self._tail).decode(errors="replace").strip() or "nothing"
        return WorkerError(
            f"{self._name} {how} before its work was done; the last that it printed: {last}",
            hint="SIGKILL often means that memory ran out: use fewer processes. Finished items are kept for next time",
        )

    def _pass_on(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  it was asked for as a pipe
        for line in self._process.stdout:
            self._tail.append(line)
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


def _start(job: EngineJob, theirs: "Connection[Any, Any]") -> "subprocess.Popen[bytes]":
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(harness_folder().parent), *filter(None, [environment.get("PYTHONPATH")])]
    )
    environment |= job.device.variables(environment)
    if job.device.kind is DeviceKind.CPU:
        environment["OMP_NUM_THREADS"] = str(job.device.threads)
    return subprocess.Popen(  # noqa: S603  this interpreter and this package
        [sys.executable, "-m", "harness.evaluation.worker", str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(theirs.fileno(),),
        env=environment,
    )
