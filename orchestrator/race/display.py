"""What a display sees of a race: each result once, though every round of it begins with all that is known."""

from harness.contract import Event
from orchestrator.run.progress import Display
from orchestrator.store import StageState, StageStatus


class RoundsDisplay:
    """Passes all on to `display`, but for results that an earlier round had shown: `known` of the next one's stages."""

    def __init__(self, display: Display) -> None:
        self.known = 0
        self._display = display
        self._shown: dict[str, str | None] = {}

    def begin(self, stages: int) -> None:
        self._display.begin(stages - self.known)

    def note(self, message: str) -> None:
        self._display.note(message)

    def started(self, stage: str) -> None:
        self._display.started(stage)

    def event(self, stage: str, event: Event) -> None:
        self._display.event(stage, event)

    def finished(self, stage: str, state: StageState) -> None:
        if state.status is StageStatus.CACHED and self._shown.get(stage, "") == state.key:
            return
        self._shown[stage] = state.key
        self._display.finished(stage, state)

    def end(self) -> None:
        self._display.end()
