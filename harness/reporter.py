"""Where a worker's events go: one line of JSON each, on the real stdout."""

import io
import threading

from harness.contract import Event, Log, LogLevel, Progress, Telemetry


class Reporter:
    """Writes events to a text stream; safe to call from several threads.

    Progress events are sent at most every `interval` of progress fraction, so that a loop may report each step.
    """

    def __init__(self, stream: io.TextIOBase, *, interval: float = 0.01) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._interval = interval
        self._sent: dict[str, float] = {}

    def emit(self, event: Event) -> None:
        line = event.model_dump_json()
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def progress(self, done: int, total: int | None, unit: str) -> None:
        """Report that `done` of `total` `unit` are finished; the first, the last and every visible step are sent."""
        if total:
            fraction = done / total
            if 0 < done < total and fraction - self._sent.get(unit, -1.0) < self._interval:
                return
            self._sent[unit] = fraction
        self.emit(Progress(done=done, total=total, unit=unit))

    def log(self, message: str, level: LogLevel = LogLevel.INFO) -> None:
        self.emit(Log(level=level, message=message))

    def telemetry(self, **readings: float) -> None:
        self.emit(Telemetry(readings=readings))
