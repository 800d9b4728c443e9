"""What this process asks of the disk below a folder, call by call, and what lies there after each."""

import errno
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

_CHANGING = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "chmod")
_WRITES = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Call:
    """`name` is `write` for a file that is opened for writing, and `append` for what is added to one that is open.
    `target` is where a rename leads."""

    name: str
    path: Path
    target: Path | None = None
    thread: int = field(default_factory=threading.get_ident, compare=False)


@dataclass
class DiskCalls:
    """`calls` in their order. `states` are copies of the folder, one after each call that changed it.

    With nowhere to put `copies` there are none.
    """

    folder: Path
    copies: Path | None
    calls: list[Call] = field(default_factory=list)
    states: list[Path] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _copying: bool = False

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Between calls of several threads nothing happens, so that each copy is of one instant."""
        if self.copies is not None:
            self.copies.mkdir(exist_ok=True)
        ours = {name: self._changing(name) for name in _CHANGING} | {
            "open": self._opening(os.open, lambda flags: bool(flags & _WRITES)),
            "fsync": self._sync(),
            "write": self._appending(),
        }
        opened = self._opening(io.open, lambda mode="r": not set(mode).isdisjoint("wax+"))
        with mock.patch.multiple(os, **ours), mock.patch.object(io, "open", opened):
            yield

    def before(self, call: Call) -> None:
        """Called before each call below the folder; what it raises, the call does."""

    def _changing(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(path: Any, *rest: Any, **keywords: Any) -> Any:
            with self._lock:
                target = Path(os.fspath(rest[0])) if name in ("rename", "replace") else None
                within = keywords.get("dir_fd", keywords.get("src_dir_fd"))
                whole = Path(f"/proc/self/fd/{within}").resolve() / path if within is not None else Path(path)
                made = Call(name, whole, target)
                self._begin(made)
                result = real(path, *rest, **keywords)
                self._note(made, changed=True)
                return result

        return call

    def _opening(self, real: Callable[..., Any], is_writing: Callable[..., bool]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **keywords: Any) -> Any:
            how = {name: value for name, value in keywords.items() if name in ("mode", "flags")}
            if isinstance(path, int) or not is_writing(*rest[:1], **how):
                return real(path, *rest, **keywords)
            with self._lock:
                made = Call("write", Path(os.fspath(path)))
                self._begin(made)
                result = real(path, *rest, **keywords)
                self._note(made, changed=True)
                return result

        return call

    def _appending(self) -> Callable[[int, bytes], int]:
        real = os.write

        def call(descriptor: int, content: bytes) -> int:
            with self._lock:
                made = Call("append", Path(f"/proc/self/fd/{descriptor}").resolve())
                self._begin(made)
                written = real(descriptor, content)
                self._note(made, changed=True)
                return written

        return call

    def _sync(self) -> Callable[[int], None]:
        real = os.fsync

        def call(descriptor: int) -> None:
            with self._lock:
                made = Call("fsync", Path(f"/proc/self/fd/{descriptor}").resolve())
                self._begin(made)
                real(descriptor)
                self._note(made, changed=False)

        return call

    def _begin(self, call: Call) -> None:
        if not self._copying and call.path.is_relative_to(self.folder):
            self.before(call)

    def _note(self, call: Call, *, changed: bool) -> None:
        if self._copying or not call.path.is_relative_to(self.folder):
            return
        self.calls.append(call)
        if changed and self.copies is not None:
            self._copying = True
            try:
                self.states.append(self.copies / str(len(self.states)))
                shutil.copytree(self.folder, self.states[-1])
            finally:
                self._copying = False


LASTING = {
    errno.ENOSPC: ("write", "append", "mkdir", "rename", "replace", "fsync"),
    errno.EROFS: (*_CHANGING, "write", "append"),
}
"""What a full and a read-only disk refuse, for as long as they are so."""


@dataclass
class FailingDisk(DiskCalls):
    """From the call with number `first` on, from 0, the disk fails: once, or as long as `LASTING` says of `error`."""

    first: int = 0
    error: int = errno.EIO
    failed: list[Call] = field(default_factory=list)
    _begun: int = 0

    def before(self, call: Call) -> None:
        """Raises OSError: it is the call's turn to fail."""
        self._begun += 1
        is_first = self._begun == self.first + 1
        lasting = self.error in LASTING and self._begun > self.first and call.name in LASTING[self.error]
        if lasting or (is_first and self.error not in LASTING):
            self.failed.append(call)
            raise OSError(self.error, os.strerror(self.error), str(call.path))
