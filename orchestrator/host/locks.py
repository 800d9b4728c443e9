"""Locks between orchestrators: advisory file locks, which the kernel releases when their holder dies."""

import fcntl
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import Interrupted, StoreError

_POLL_SECONDS = 0.1
_QUIET_SECONDS = 2.0
_OPENED = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_RANGE = "hhqqi4x"
"""`struct flock`: kind, whence, start, length, and a process that is always 0 for locks of an open file."""
_RANGE_DIGITS = 15
"""Of a hexadecimal digest: an offset has 63 bits. Two that share them are wanted together, which is safe."""
_TABLE = Path("/proc/locks")
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
    """Take the lock if it is free right now; yields whether it was taken, and releases it at the end.

    Its folder is made, and none above: a store that was taken away must not come back as an empty one.
    """
    try:
        descriptor = os.open(path, _OPENED, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, _OPENED, 0o666)
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


def is_held(path: Path, *, alone: bool = False) -> bool:
    """Whether a process that the kernel shows to this one holds the lock; with `alone`, whether it shares it with none.

    For who only looks: the lock is neither taken, which somebody else might find it to be, nor made. Where the kernel
    has no table of locks, and for holders on other machines, the answer is no.
    """
    try:
        inode, table = str(path.stat().st_ino), _TABLE.read_text(encoding="ascii")
    except (OSError, ValueError):
        return False
    rows = (line.split() for line in table.splitlines())
    held = (row[3] for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5].rpartition(":")[2] == inode)
    return any(kind == "WRITE" or not alone for kind in held)


class Interests:
    """Who wants which of many things, each by its digest: byte ranges of one file, so that thousands take one
    descriptor. Safe to use from several threads; each instance is an owner of its own, in one process, too.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._opening = threading.Lock()

    def share(self, digest: str) -> None:
        """Want it, together with others; waits for one who has it alone. Raises OSError."""
        self._lock(fcntl.F_OFD_SETLKW, fcntl.F_RDLCK, digest)

    def alone(self, digest: str) -> bool:
        """Want it alone, whether it was shared before or not; False where others want it. Raises OSError."""
        try:
            self._lock(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, digest)
        except BlockingIOError:
            return False
        return True

    def forget(self, digest: str) -> None:
        """Want it no more. Raises OSError."""
        self._lock(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, digest)

    def close(self) -> None:
        """Want nothing any more."""
        with self._opening:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _lock(self, command: int, kind: int, digest: str) -> None:
        with self._opening:
            if self._descriptor is None:
                self._path.parent.mkdir(exist_ok=True)
                self._descriptor = os.open(self._path, _OPENED, 0o666)
            descriptor = self._descriptor
        fcntl.fcntl(descriptor, command, struct.pack(_RANGE, kind, os.SEEK_SET, int(digest[:_RANGE_DIGITS], 16), 1, 0))


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
