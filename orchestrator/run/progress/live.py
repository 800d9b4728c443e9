"""Bars on a terminal: one for the run, one for each stage at work, finished stages as lines above them."""

import threading
import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from harness.contract import Event, Log, LogLevel
from harness.contract import Progress as ProgressEvent
from orchestrator.run.progress.rate import Rate
from orchestrator.run.progress.wording import SYMBOLS, duration, outcome, units
from orchestrator.store import StageState


class LiveDisplay:
    """Draws on stderr with rich."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
        )
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._rates: dict[str, Rate] = {}
        self._whole: TaskID | None = None

    def begin(self, stages: int) -> None:
        if self._whole is not None:
            self._bars.remove_task(self._whole)
        self._whole = self._bars.add_task("[bold]run", total=stages, unit="stages", left="")
        self._bars.start()

    def note(self, message: str) -> None:
        self._console.print(f"[dim]{escape(message)}[/dim]", highlight=False)

    def started(self, stage: str) -> None:
        with self._lock:
            self._tasks[stage] = self._bars.add_task(escape(stage), total=None, unit="", left="")

    def event(self, stage: str, event: Event) -> None:
        if isinstance(event, Log):
            style = "yellow" if event.level is LogLevel.WARNING else "dim"
            self._console.print(f"[{style}]{escape(stage)}: {escape(event.message)}[/{style}]", highlight=False)
        elif isinstance(event, ProgressEvent) and stage in self._tasks:
            seconds = self._rates.setdefault(stage, Rate()).left(event, time.monotonic())
            left = "" if seconds is None else f"about {duration(seconds)} left"
            self._bars.update(
                self._tasks[stage], completed=event.done, total=event.total, unit=units(event.unit), left=left
            )

    def finished(self, stage: str, state: StageState) -> None:
        with self._lock:
            task = self._tasks.pop(stage, None)
        if task is not None:
            self._bars.remove_task(task)
        symbol, colour = SYMBOLS.get(state.status, ("?", "white"))
        self._console.print(
            f"[{colour}]{symbol}[/{colour}] {escape(stage)}  [dim]{escape(outcome(state))}[/dim]", highlight=False
        )
        if self._whole is not None:
            self._bars.advance(self._whole)

    def end(self) -> None:
        self._bars.stop()
