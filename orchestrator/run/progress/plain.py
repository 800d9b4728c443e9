"""Lines for a log: no control codes, one line when something happens, progress at most every few seconds."""

import sys
import threading
import time
from typing import TextIO

from harness.contract import Event, Log, Progress
from orchestrator.run.progress.rate import Rate
from orchestrator.run.progress.wording import duration, outcome, units
from orchestrator.store import StageState

_SECONDS_BETWEEN_LINES = 5.0


class PlainDisplay:
    """Writes to `stream`, by default stderr."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()
        self._total = 0
        self._done = 0
        self._rates: dict[str, Rate] = {}
        self._last_line: dict[str, float] = {}

    def begin(self, stages: int) -> None:
        self._total, self._done = stages, 0

    def note(self, message: str) -> None:
        self._write(message)

    def started(self, stage: str) -> None:
        self._last_line[stage] = time.monotonic()
        self._write(f"{stage}: started")

    def event(self, stage: str, event: Event) -> None:
        if isinstance(event, Log):
            self._write(f"{stage}: {event.level.value}: {event.message}")
        elif isinstance(event, Progress):
            left = self._rates.setdefault(stage, Rate()).left(event, time.monotonic())
            if self._is_due(stage):
                self._write(f"{stage}: {_progress(event, left)}")

    def finished(self, stage: str, state: StageState) -> None:
        with self._lock:
            self._done += 1
            count = f"[{self._done}/{self._total}]"
        self._write(f"{count} {stage}: {outcome(state)}")

    def end(self) -> None:
        self._stream.flush()

    def _is_due(self, stage: str) -> bool:
        with self._lock:
            moment = time.monotonic()
            if moment - self._last_line.get(stage, 0.0) < _SECONDS_BETWEEN_LINES:
                return False
            self._last_line[stage] = moment
            return True

    def _write(self, line: str) -> None:
        with self._lock:
            print(line, file=self._stream, flush=True)


def _progress(event: Progress, left_seconds: float | None) -> str:
    if not event.total:
        return f"{event.done} {units(event.unit)}"
    text = f"{event.done}/{event.total} {units(event.unit)}"
    return text if left_seconds is None else f"{text}, about {duration(left_seconds)} left"
