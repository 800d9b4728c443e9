"""How long a stage's progress will take: from the pace between its own events, never from how long it got ready."""

from collections import deque

from harness.contract import Progress

_FEWEST_SECONDS = 3.0
"""A pace over less says nothing."""
_FEWEST_DONE = 2
_WINDOW_SECONDS = 60.0
"""What came before counts no more: items differ in length, and machines in load."""


class Rate:
    """Fed with each event of one count. A count that starts again, in another unit or from below, is another one."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._counted: tuple[str, int | None] | None = None

    def left(self, event: Progress, now_seconds: float) -> float | None:
        """The seconds that are left at the pace of the last minute; None while there is none to go by.

        What was done before the first event, loading and all, is in no pace.
        """
        if (event.unit, event.total) != self._counted or (self._seen and event.done < self._seen[-1][1]):
            self._seen.clear()
            self._counted = (event.unit, event.total)
        self._seen.append((now_seconds, event.done))
        while len(self._seen) > 1 and self._can_go(*self._seen[1], event.done, now_seconds):
            self._seen.popleft()
        (begun, first), (ended, last) = self._seen[0], self._seen[-1]
        if not event.total or last >= event.total or last - first < _FEWEST_DONE or ended - begun < _FEWEST_SECONDS:
            return None
        return (ended - begun) * (event.total - last) / (last - first)

    def _can_go(self, begun: float, first: int, done: int, now_seconds: float) -> bool:
        """Whether what came before a moment is too old, and enough was done since."""
        return now_seconds - begun >= _WINDOW_SECONDS and done - first >= _FEWEST_DONE
