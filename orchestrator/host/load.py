"""What else this machine did while something ran: its load, tasks that waited for a processor, time stolen from it."""

import os
import time
from pathlib import Path

from harness.contract import Frozen

MOST_PRESSURE = 0.10
MOST_STEAL = 0.02
"""Beyond either a measurement was disturbed. Fixed beforehand, so that no figure has a say in whether it counts."""

_PROC = Path("/proc")
_MICROSECONDS = 1e-6
_STEAL_FIELD = 7
_GUEST_FIELD = 8


class MachineLoad(Frozen):
    """The whole host over a worker's life, the worker's own part included. None is what the kernel does not say.

    `load_average` is the mean number of runnable tasks over the last minute, at the end. `pressure_fraction` is the
    share of the time in which some task waited for a processor (PSI), `steal_fraction` the share of all processors'
    time that a hypervisor gave to others.
    """

    load_average: float | None = None
    pressure_fraction: float | None = None
    steal_fraction: float | None = None

    @property
    def disturbance(self) -> str | None:
        """What disturbed a measurement that was taken meanwhile, in a clause; None where nothing did."""
        if self.pressure_fraction is not None and self.pressure_fraction > MOST_PRESSURE:
            return f"tasks waited for a processor in {self.pressure_fraction:.0%} of the time"
        if self.steal_fraction is not None and self.steal_fraction > MOST_STEAL:
            return f"{self.steal_fraction:.0%} of the processors' time went to other guests of the host"
        return None


class LoadWatch:
    """Begins when it is made."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._begin = time.monotonic()
        self._waited_seconds = _waited_seconds(proc)
        self._ticks = _ticks(proc)

    def load(self) -> MachineLoad:
        """Of the time since the beginning."""
        seconds = time.monotonic() - self._begin
        waited_seconds, ticks = _waited_seconds(self._proc), _ticks(self._proc)
        pressure = steal = None
        if self._waited_seconds is not None and waited_seconds is not None and seconds > 0:
            pressure = min(max((waited_seconds - self._waited_seconds) / seconds, 0.0), 1.0)
        if self._ticks is not None and ticks is not None and sum(ticks) > sum(self._ticks):
            stolen = ticks[_STEAL_FIELD] - self._ticks[_STEAL_FIELD]
            steal = min(max(stolen / (sum(ticks) - sum(self._ticks)), 0.0), 1.0)
        return MachineLoad(load_average=_load_average(), pressure_fraction=pressure, steal_fraction=steal)


def _waited_seconds(proc: Path) -> float | None:
    """How long some task has waited for a processor since the machine's start."""
    try:
        some = (proc / "pressure" / "cpu").read_text(encoding="ascii").splitlines()[0]
        return float(some.rpartition("total=")[2]) * _MICROSECONDS
    except (OSError, ValueError, IndexError):
        return None


def _ticks(proc: Path) -> tuple[int, ...] | None:
    """All processors' time since the machine's start, by what it was spent on; guests' is within the user's."""
    try:
        fields = (proc / "stat").read_text(encoding="ascii").splitlines()[0].split()[1 : _GUEST_FIELD + 1]
        ticks = tuple(int(field) for field in fields)
    except (OSError, ValueError, IndexError):
        return None
    return ticks if len(ticks) == _GUEST_FIELD else None


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
