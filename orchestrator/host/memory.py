"""How much memory a worker may take where nobody says: the machine's, less what everything else needs."""

import os
from functools import cache
from pathlib import Path

_LEAST_RESERVE_BYTES = 2**30
_RESERVED_SHARE = 16
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@cache
def machine_bytes() -> int:
    """The memory of this machine, or of the container that this program runs in where that has less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *(limit for path in _CGROUP_LIMITS if (limit := _limit(path)) is not None)])


def reserve_bytes() -> int:
    """What is left to the system and to this program: a sixteenth of the machine's, at least 1 GiB, at most half."""
    return min(max(machine_bytes() // _RESERVED_SHARE, _LEAST_RESERVE_BYTES), machine_bytes() // 2)


def worker_bytes() -> int:
    """What one worker may take."""
    return machine_bytes() - reserve_bytes()


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
