"""Who is doing some work: enough to tell later, also after a crash, whether that process still lives."""

import os
import socket
import zlib
from functools import cache
from pathlib import Path
from typing import Self

from harness.contract import Frozen


class Owner(Frozen):
    """A process on a host. The start time tells a reused process id from the original."""

    host: str
    pid: int
    start_ticks: int

    @classmethod
    def current(cls) -> Self:
        return cls(host=_host(), pid=os.getpid(), start_ticks=_own_start_ticks(os.getpid()))

    @classmethod
    def parse(cls, token: str) -> Self:
        """Read what `token` gives. Raises ValueError for anything else."""
        host, pid, start_ticks = token.rsplit("~", 2)
        return cls(host=host, pid=int(pid), start_ticks=int(start_ticks))

    @property
    def token(self) -> str:
        """The owner as part of a file name."""
        return f"{self.host}~{self.pid}~{self.start_ticks}"

    @property
    def mark(self) -> str:
        """The owner as a short part of a file name, without a dot."""
        return f"{_mark_of(self.host)}-{self.pid}-{self.start_ticks}"

    @classmethod
    def marked(cls, mark: str) -> Self | None:
        """The owner of this host that gives such a mark; None for any other text."""
        host, _, numbers = mark.partition("-")
        pid, _, start_ticks = numbers.partition("-")
        if host != _mark_of(_host()) or not (pid.isascii() and pid.isdigit() and start_ticks.isdigit()):
            return None
        return cls(host=_host(), pid=int(pid), start_ticks=int(start_ticks))

    def is_dead(self) -> bool:
        """True when the process is certainly gone. An owner on another host is never judged dead."""
        return self.host == _host() and _start_ticks(self.pid) != self.start_ticks


def _host() -> str:
    return socket.gethostname()


def _mark_of(host: str) -> str:
    return f"{zlib.crc32(host.encode()):08x}"


@cache
def _own_start_ticks(pid: int) -> int:
    """Looked up once in a process, whose own never change; a fork has another `pid`."""
    return _start_ticks(pid) or 0


def _start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (field 22 of /proc/<pid>/stat), None when it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
