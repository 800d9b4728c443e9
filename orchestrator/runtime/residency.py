"""Memory of another process, from its `/proc/<pid>/status`: its peak, and what it holds that is not a file's."""

from pathlib import Path

_KIB = 1024


class PeakResident:
    """The high-water mark that the kernel keeps (VmHWM), as last seen: a process takes it along when it dies."""

    def __init__(self) -> None:
        self.peak_bytes: int | None = None

    def sample(self, pid: int) -> int | None:
        """Look at the process once. Returns the bytes that it holds now: no files that are mapped, since the kernel
        takes those back when memory runs out. None when it is gone."""
        fields = _status(pid)
        if (peak := fields.get("VmHWM")) is not None:
            self.peak_bytes = max(self.peak_bytes or 0, peak)
        return fields["RssAnon"] + fields["RssShmem"] if fields.keys() >= {"RssAnon", "RssShmem"} else None


def children_of(pid: int) -> list[int]:
    """Process ids of a process's direct children; none when it is gone."""
    try:
        listing = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(child) for child in listing.split()]


def _status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {
        name: int(value.split()[0]) * _KIB
        for name, _, value in (line.partition(":") for line in lines)
        if name in ("VmHWM", "RssAnon", "RssShmem")
    }


def held_below(pid: int) -> int:
    """The bytes that the children of a process hold, and theirs; memory that they share is counted once."""
    own, shared, waiting = 0, 0, children_of(pid)
    while waiting:
        child = waiting.pop()
        fields = _status(child)
        own += fields.get("RssAnon", 0)
        shared = max(shared, fields.get("RssShmem", 0))
        waiting += children_of(child)
    return own + shared
