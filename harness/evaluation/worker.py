"""`python -m harness.evaluation.worker FD`: one of several processes that score pieces of the same task.

It talks with its parent in pickled messages over the socket FD alone; both ends are the same harness on one machine. It
ends when the parent closes the socket or dies, at once, whatever it is computing.
"""

import os
import queue
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

from harness import errors
from harness.evaluation.engine import EngineJob
from harness.evaluation.messages import Failed, Ready, Remark, Scored
from harness.evaluation.pieces import Piece
from harness.evaluation.reference import LocalEngine

PARENT_IS_GONE = 7
"""The exit status of a worker whose parent has closed the socket."""


def main(descriptor: int) -> int:
    """Serve the parent until it is gone, or until something fails; returns the exit status."""
    parent = Connection(descriptor)
    try:
        job: EngineJob = parent.recv()
    except EOFError:
        return PARENT_IS_GONE
    pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(parent, pieces), name="receiver", daemon=True).start()
    try:
        _work(job, parent, pieces)
    except errors.WorkerError as failure:
        parent.send(Failed.of(failure))
    except MemoryError as failure:
        parent.send(Failed.of(_out_of_memory(failure)))
    except RuntimeError as failure:
        if type(failure).__name__ != "OutOfMemoryError":
            raise
        parent.send(Failed.of(_out_of_memory(failure)))
    return 0


def _work(job: EngineJob, parent: Connection, pieces: "queue.SimpleQueue[Piece]") -> None:
    engine = LocalEngine(job, lambda text: parent.send(Remark(text)))
    parent.send(Ready(engine.facts()))
    counted = engine.tokens
    for answered in engine.answers(_endless(pieces)):
        tokens = engine.tokens
        parent.send(Scored(answered, tokens - counted))
        counted = tokens


def _receive(parent: Connection, pieces: "queue.SimpleQueue[Piece]") -> None:
    """Take pieces in while others are computed, and notice at once when there is no parent any more."""
    while True:
        try:
            pieces.put(parent.recv())
        except (EOFError, OSError):
            os._exit(PARENT_IS_GONE)


def _endless(pieces: "queue.SimpleQueue[Piece]") -> Iterator[Piece]:
    while True:
        yield pieces.get()


def _out_of_memory(failure: BaseException) -> errors.OutOfMemory:
    return errors.OutOfMemory(f"out of memory: {failure}", hint="use fewer processes, or a smaller token_budget")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
