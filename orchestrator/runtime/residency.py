"""Peak resident memory of another process, from its `/proc/<pid>/status`."""

from pathlib import Path

_KIB = 1024


class PeakResident:
    """The high-water mark that the kernel keeps (VmHWM), as last seen: a process takes it along when it dies."""

    def __init__(self) -> None:
        self.peak_bytes: int | None = None

    def sample(self, pid: int) -> int | None:
        """Look at the process once. Returns its resident bytes now; None when it is gone."""
        fields = _status(pid)
        if (peak := fields.get("VmHWM")) is not None:
            self.peak_bytes = max(self.peak_bytes or 0, peak)
        return fields.get("VmRSS")


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
        if name in ("VmHWM", "VmRSS")
    }
