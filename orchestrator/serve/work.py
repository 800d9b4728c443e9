"""A stage's folder in the store, and what its worker says while it is at work."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from harness.contract import EVENT, Device, ErrorEvent, Event, Log, LogLevel, Progress, ResultEvent, Started, Telemetry
from harness.contract.text import one_line
from harness.contract.tree import read_regular
from orchestrator.run.progress.rate import Rate
from orchestrator.run.progress.wording import units
from orchestrator.serve.tails import Tail, end_of
from orchestrator.stages import EVENTS_NAME, REQUEST_NAME, STDERR_NAME
from orchestrator.store import StageState, StageStatus, Store

MOST_EVENTS = 200
_MOST_CHARACTERS = 500
_MOST_REQUEST_BYTES = 2**20


@dataclass(frozen=True)
class AtWork:
    """What a stage's worker said last. `left_seconds` is what is left at the pace of the last minute."""

    stage: str
    image: str
    since: datetime | None
    device: str
    progress: Progress | None
    left_seconds: float | None
    message: str

    @property
    def unit(self) -> str:
        return "" if self.progress is None else units(one_line(self.progress.unit, _MOST_CHARACTERS))


class Work:
    """Looks at the stages of one store. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._rates: dict[Path, Rate] = {}

    def folder(self, state: StageState) -> Path | None:
        """Where request, events and stderr of a stage lie, and its result if it has one; None where nothing does."""
        if state.key is None:
            return None
        if state.status is StageStatus.RUNNING:
            found = [path for path in self._store.attempts.glob(f"{state.key}@*") if self._is_own(path)]
            return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
        path = (self._store.stages if state.has_result else self._store.failures) / state.key
        return path if self._is_own(path) else None

    def _is_own(self, path: Path) -> bool:
        """Whether it is a folder of the store itself, and no link to somewhere else."""
        return path.is_dir() and path.resolve() == self._store.root / path.relative_to(self._store.root)

    def stamp(self, state: StageState) -> tuple[object, ...]:
        """What is another one as soon as something that is shown of the stage's files is."""
        folder = self.folder(state)
        return (state.status, None if folder is None else (folder.name, *map(_stamp, _files(folder))))

    def at_work(self, stage: str, state: StageState) -> AtWork:
        """What the worker of a running stage says."""
        folder = self.folder(state)
        progress, message = (None, "") if folder is None else _last(end_of(folder / EVENTS_NAME))
        return AtWork(
            stage=stage,
            image=state.image,
            since=state.started,
            device="" if folder is None else _device(folder),
            progress=progress,
            left_seconds=None if folder is None or progress is None else self._left(folder, progress),
            message=message,
        )

    def _left(self, folder: Path, progress: Progress) -> float | None:
        with self._lock:
            for gone in [path for path in self._rates if not path.exists()]:
                del self._rates[gone]
            return self._rates.setdefault(folder, Rate()).left(progress, time.monotonic())


def _backwards(tail: Tail) -> Iterator[Event | str]:
    """Each line of an events file as the event that it is, or as text, the last one first."""
    for line in reversed(tail.text.splitlines()):
        try:
            yield EVENT.validate_json(line)
        except ValidationError:
            yield line


def _last(tail: Tail) -> tuple[Progress | None, str]:
    """How far the worker is, and what it said last."""
    progress, message = None, ""
    for event in _backwards(tail):
        if progress is None and isinstance(event, Progress):
            progress = event
        elif not message and isinstance(event, Log | ErrorEvent):
            message = describe(event)
        if progress is not None and message:
            break
    return progress, message


def event_lines(folder: Path) -> Tail:
    """The last events in words, one a line."""
    tail = end_of(folder / EVENTS_NAME)
    told = list(map(describe, islice(_backwards(tail), MOST_EVENTS)))
    return Tail("\n".join(reversed(told)), tail.left_out_bytes, tail.absent)


def describe(event: Event | str) -> str:
    """An event in one line of bounded length."""
    return one_line(_described(event), _MOST_CHARACTERS)


def _described(event: Event | str) -> str:
    match event:
        case Started():
            return f"started {event.operation.value}"
        case Progress():
            return f"{event.done}{'' if event.total is None else f'/{event.total}'} {units(event.unit)}"
        case Log():
            return f"warning: {event.message}" if event.level is LogLevel.WARNING else event.message
        case Telemetry():
            return ", ".join(f"{name} {value:.6g}" for name, value in event.readings.items())
        case ResultEvent():
            return f"result after {event.wall_seconds:.1f} s"
        case ErrorEvent():
            return f"{event.code.value}: {event.message}"
    return event


def device_text(device: Device) -> str:
    """`cpu, 2 threads`; GPUs by their names."""
    names = ", ".join(device.uuids) or device.kind.value
    threads = device.threads
    return names if threads is None else f"{names}, {threads} thread{'' if threads == 1 else 's'}"


def _device(folder: Path) -> str:
    try:
        request = json.loads(read_regular(folder / REQUEST_NAME, _MOST_REQUEST_BYTES))
        return one_line(device_text(Device.model_validate(request["device"])), _MOST_CHARACTERS)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return ""


def _files(folder: Path) -> tuple[Path, ...]:
    return folder / REQUEST_NAME, folder / EVENTS_NAME, folder / STDERR_NAME


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
