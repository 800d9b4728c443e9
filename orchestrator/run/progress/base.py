"""What a display is told. Displays write to stderr only: stdout is for results."""

from typing import Protocol

from harness.contract import Event
from orchestrator.store import StageState


class Display(Protocol):
    """Called from several threads at once."""

    def begin(self, stages: int) -> None:
        """A run of so many stages starts."""
        ...

    def note(self, message: str) -> None:
        """Something worth a line: a choice made, an image being built."""
        ...

    def started(self, stage: str) -> None: ...

    def event(self, stage: str, event: Event) -> None: ...

    def finished(self, stage: str, state: StageState) -> None: ...

    def end(self) -> None: ...
