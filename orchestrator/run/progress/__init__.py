"""What the user sees while a run goes on: live bars on a terminal, plain lines in a log, or nothing."""

import sys
from enum import StrEnum

from harness.contract import Event
from orchestrator.run.progress.base import Display
from orchestrator.store import StageState


class ProgressMode(StrEnum):
    AUTO = "auto"
    LIVE = "live"
    PLAIN = "plain"
    NONE = "none"


class SilentDisplay:
    """Shows nothing."""

    def begin(self, stages: int) -> None: ...

    def note(self, message: str) -> None: ...

    def started(self, stage: str) -> None: ...

    def event(self, stage: str, event: Event) -> None: ...

    def finished(self, stage: str, state: StageState) -> None: ...

    def end(self) -> None: ...


def choose_display(mode: ProgressMode) -> Display:
    """The display for a mode; `auto` is live on a terminal and plain elsewhere."""
    if mode is ProgressMode.NONE:
        return SilentDisplay()
    if mode is ProgressMode.LIVE or (mode is ProgressMode.AUTO and sys.stderr.isatty()):
        from orchestrator.run.progress.live import LiveDisplay

        return LiveDisplay()
    from orchestrator.run.progress.plain import PlainDisplay

    return PlainDisplay()


__all__ = ["Display", "ProgressMode", "SilentDisplay", "choose_display"]
