"""Locks between orchestrators: advisory file locks, which the kernel releases when their holder dies."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import Interrupted

_POLL_SECONDS = 0.1


@contextmanager
def hold(path: Path, *, shared: bool = False, cancel: threading.Event | None = None) -> Iterator[None]:
    """Hold the lock at `path`, waiting for it; several holders may share it when all ask `shared`.

    Raises:
        Interrupted: `cancel` was set while waiting.
    """
    with attempt(path, shared=shared) as taken:
        if taken:
            yield
            return
    while True:
        if cancel is not None and cancel.is_set():
            raise Interrupted("stopped while waiting for another orchestrator")
        time.sleep(_POLL_SECONDS)
        with attempt(path, shared=shared) as taken:
            if taken:
                yield
                return


@contextmanager
def attempt(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Take the lock if it is free right now; yields whether it was taken, and releases it at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
