"""Who is doing some work: enough to tell later, also after a crash, whether that process still lives."""

import os
import socket
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
        return cls(host=_host(), pid=os.getpid(), start_ticks=_start_ticks(os.getpid()) or 0)

    @classmethod
    def parse(cls, token: str) -> Self:
        """Read what `token` gives. Raises ValueError for anything else."""
        host, pid, start_ticks = token.rsplit("~", 2)
        return cls(host=host, pid=int(pid), start_ticks=int(start_ticks))

    @property
    def token(self) -> str:
        """The owner as part of a file name."""
        return f"{self.host}~{self.pid}~{self.start_ticks}"

    def is_dead(self) -> bool:
        """True when the process is certainly gone. An owner on another host is never judged dead."""
        return self.host == _host() and _start_ticks(self.pid) != self.start_ticks


def _host() -> str:
    return socket.gethostname()


def _start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (field 22 of /proc/<pid>/stat), None when it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
