"""What this process asks of the disk below a folder, call by call, and what lies there after each."""

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
    """`name` is `write` for a file that is opened for writing. `target` is where a rename leads."""

    name: str
    path: Path
    target: Path | None = None
    thread: int = field(default_factory=threading.get_ident, compare=False)


@dataclass
class DiskCalls:
    """`calls` in their order. `states` are copies of the folder, one after each call that changed it."""

    folder: Path
    copies: Path
    calls: list[Call] = field(default_factory=list)
    states: list[Path] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _copying: bool = False

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Between calls of several threads nothing happens, so that each copy is of one instant."""
        self.copies.mkdir(exist_ok=True)
        ours = {name: self._changing(name) for name in _CHANGING} | {
            "open": self._opening(os.open, lambda flags: bool(flags & _WRITES)),
            "fsync": self._sync(),
        }
        opened = self._opening(io.open, lambda mode="r": not set(mode).isdisjoint("wax+"))
        with mock.patch.multiple(os, **ours), mock.patch.object(io, "open", opened):
            yield

    def _changing(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(path: Any, *rest: Any, **keywords: Any) -> Any:
            with self._lock:
                target = Path(os.fspath(rest[0])) if name in ("rename", "replace") else None
                result = real(path, *rest, **keywords)
                within = keywords.get("dir_fd")
                whole = Path(f"/proc/self/fd/{within}").resolve() / path if within is not None else Path(path)
                self._note(Call(name, whole, target), changed=True)
                return result

        return call

    def _opening(self, real: Callable[..., Any], is_writing: Callable[..., bool]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **keywords: Any) -> Any:
            how = {name: value for name, value in keywords.items() if name in ("mode", "flags")}
            if isinstance(path, int) or not is_writing(*rest[:1], **how):
                return real(path, *rest, **keywords)
            with self._lock:
                result = real(path, *rest, **keywords)
                self._note(Call("write", Path(os.fspath(path))), changed=True)
                return result

        return call

    def _sync(self) -> Callable[[int], None]:
        real = os.fsync

        def call(descriptor: int) -> None:
            with self._lock:
                real(descriptor)
                self._note(Call("fsync", Path(f"/proc/self/fd/{descriptor}").resolve()), changed=False)

        return call

    def _note(self, call: Call, *, changed: bool) -> None:
        if self._copying or not call.path.is_relative_to(self.folder):
            return
        self.calls.append(call)
        if changed:
            self._copying = True
            try:
                self.states.append(self.copies / str(len(self.states)))
                shutil.copytree(self.folder, self.states[-1])
            finally:
                self._copying = False
