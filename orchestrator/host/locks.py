"""Locks between orchestrators: advisory file locks, which the kernel releases when their holder dies."""

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import Interrupted, StoreError

_POLL_SECONDS = 0.1
_QUIET_SECONDS = 2.0
_SHARED = Path("/var/tmp/llmcbench")  # noqa: S108  the same for every user and every TMPDIR


@contextmanager
def hold(
    path: Path,
    *,
    shared: bool = False,
    cancel: threading.Event | None = None,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Hold the lock at `path`, waiting for it; several holders may share it when all ask `shared`.

    `on_wait` is called once, where the wait is not a short one.

    Raises:
        Interrupted: `cancel` was set while waiting.
    """
    with attempt(path, shared=shared) as taken:
        if taken:
            yield
            return
    begin = time.monotonic()
    while True:
        if on_wait is not None and time.monotonic() - begin > _QUIET_SECONDS:
            on_wait()
            on_wait = None
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


@contextmanager
def hold_existing(path: Path) -> Iterator[None]:
    """Share the lock, for who only reads: where there is none, or it cannot be opened, nothing is held or created."""
    if os.access(path, os.R_OK | os.W_OK):
        with hold(path, shared=True):
            yield
    else:
        yield


def shared_folder() -> Path:
    """A folder that all orchestrators of this host share, whoever runs them; this user's own where that cannot be had.

    It is not sticky: in a sticky folder the kernel may refuse to open what another user made (`fs.protected_regular`).

    Raises:
        StoreError: neither can be written.
    """
    for folder, mode in ((_SHARED, 0o777), (Path(tempfile.gettempdir()) / f"llmcbench-{os.getuid()}", 0o700)):
        try:
            folder.mkdir(exist_ok=True)
            if folder.stat().st_uid == os.getuid():
                folder.chmod(mode)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise StoreError("there is no folder for locks of this host", hint=f"make {_SHARED.parent} or TMPDIR writable")


def shared_lock(name: str) -> Path:
    """The path of a lock that all orchestrators of this host share."""
    path = shared_folder() / name
    if not path.exists():
        path.touch()
        path.chmod(0o666)
    return path
