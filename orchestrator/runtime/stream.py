"""Reads a worker's stdout: bytes in, validated events out, every deviation from the contract noted."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from harness.contract import EVENT, ErrorEvent, Event, FinalEvent, ResultEvent
from orchestrator.documents import why_invalid

MAX_LINE_BYTES = 64 * 2**20
_QUOTED_CHARACTERS = 120


class EventStream:
    """Collects one worker's stdout. Raw lines go to `path` as they come; valid events go to `on_event`.

    A line that is no event, anything after the final event, and a line over 64 MiB are violations: they are remembered,
    not raised, because the worker is still running.
    """

    def __init__(self, path: Path, on_event: Callable[[Event], None]) -> None:
        self._file = path.open("wb")
        self._on_event = on_event
        self._pending = bytearray()
        self.final: FinalEvent | None = None
        self.violations: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pending:
            self._line(bytes(self._pending))
            self._pending.clear()
        self._file.close()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of stdout, cut anywhere."""
        self._file.write(data)
        self._file.flush()
        self._pending += data
        while (end := self._pending.find(b"\n")) >= 0:
            line = bytes(self._pending[:end])
            del self._pending[: end + 1]
            self._line(line)
        if len(self._pending) > MAX_LINE_BYTES:
            self.violations.append(f"a line of more than {MAX_LINE_BYTES // 2**20} MiB")
            self._pending.clear()

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            event = EVENT.validate_json(line)
        except ValidationError as invalid:
            quoted = line[:_QUOTED_CHARACTERS].decode(errors="replace")
            self.violations.append(f"a line that is no event ({why_invalid(invalid, line)}): {quoted!r}")
            return
        if self.final is not None:
            self.violations.append(f"a {event.event!r} event after the final one")
            return
        if isinstance(event, ResultEvent | ErrorEvent):
            self.final = event
        self._on_event(event)
