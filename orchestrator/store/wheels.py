"""Wheels that fetches brought, by their sha256: what many data sets lie in is downloaded once.

Workers read them and never write here: what one left in its output is taken from there after its end, if it is, to the
last byte, what the fetch's image or the manifest names. So a worker that is killed, or lies, leaves nothing to others;
one that was damaged here since then is noticed by who reads it, and replaced by what that one downloads.
"""

import stat
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.contract import WHEELS_NAME, Wheel
from orchestrator.host import locks
from orchestrator.host.faults import ends_a_run
from orchestrator.host.files import PUBLISHED, owned, remove_if_there
from orchestrator.host.hashing import Poll, Span, digests, never
from orchestrator.store.door import is_usual


class KeptWheels:
    """The wheels of a store. Safe to use from several threads and orchestrators."""

    def __init__(self, folder: Path, locks: Path) -> None:
        self.folder, self._locks = folder, locks

    def has(self, wheel: Wheel) -> bool:
        """Whether it is there, by its name."""
        try:
            return stat.S_ISREG(self._path(wheel).lstat().st_mode)
        except OSError:
            return False

    @contextmanager
    def handing_out(self, wheels: Collection[Wheel], cancel: threading.Event) -> Iterator[dict[str, Path]]:
        """The files of those that are there, each by its name as a worker's input.

        Who is handed less than that makes others who want the same wait until the end: by then it may be there.

        Raises:
            Interrupted: `cancel` was set while waiting for somebody who fetches one.
            OSError: the store cannot be written.
        """
        with ExitStack() as held:
            found = {}
            for wheel in sorted(set(wheels), key=lambda one: one.sha256):
                alone = held.enter_context(ExitStack())
                if not self.has(wheel):
                    alone.enter_context(locks.hold(self._locks / wheel.input_name, cancel=cancel))
                if self.has(wheel):
                    alone.close()
                    found[wheel.input_name] = self._path(wheel)
            yield found

    def take(self, output: Path, wheels: Collection[Wheel], poll: Poll = never) -> None:
        """Keep those of `wheels` that a worker, which is gone, left in its `output`; all else stays there.

        `poll` is called while they are hashed, and what it raises ends that.

        Raises:
            OSError: the disk is full, read-only or gone.
        """
        left = output / WHEELS_NAME
        for wheel in wheels if is_usual(left) else ():
            path = left / wheel.sha256
            if not path.is_file():
                continue
            try:
                owned(path, PUBLISHED)
                if digests([Span(path)], poll)[Span(path)] == wheel.sha256:
                    if not self.has(wheel):
                        remove_if_there(self._path(wheel))
                    path.replace(self._path(wheel))
            except OSError as failure:
                if ends_a_run(failure):
                    raise

    def _path(self, wheel: Wheel) -> Path:
        return self.folder / wheel.sha256
