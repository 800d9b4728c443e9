"""Reads what a worker prints: events from its stdout, with every deviation from the contract noted, and its stderr.

Whoever wrote the worker, what is kept of it is bounded on disk and in memory, and neither a control character nor a
secret that the worker was given reaches a terminal, a log or a report.
"""

import codecs
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pydantic import ValidationError

from harness.contract import EVENT, ErrorEvent, Event, FinalEvent, Log, LogLevel, Progress, ResultEvent, Telemetry
from harness.contract.text import escaped, one_line, plain_lines, unshowable_in
from orchestrator.documents import why_invalid
from orchestrator.runtime.handed_over import Redaction

MAX_LINE_BYTES = 64 * 2**20
MAX_KEPT_BYTES = 64 * 2**20
"""Of each of events and stderr. Of more, the beginning and the end are kept, and how much is missing between them."""
MAX_TEXT_CHARACTERS = 2000
"""Of a log message or a unit, as it is shown."""
_TAIL_BYTES = 64 * 2**10
_QUOTED_CHARACTERS = 120


class EventStream:
    """Collects one worker's stdout. Raw lines go to `path` as they come; valid events go to `on_event`.

    A line that is no event, anything after the final event, a line over 64 MiB, and control characters or one of the
    worker's `secrets` in a result are violations: the first is remembered and nothing after it is read, since the
    worker cannot come to a result any more. Other events have a mark in a secret's place. Beyond 64 MiB of lines,
    events are neither kept nor shown, but for the final one.
    """

    def __init__(self, path: Path, on_event: Callable[[Event], None], secrets: Iterable[str] = ()) -> None:
        self._file = path.open("wb")
        self._on_event = on_event
        self._redaction = Redaction(secrets)
        self._pending = bytearray()
        self._kept_bytes = 0
        self._left_out_bytes = 0
        self.heard_bytes = 0
        self.final: FinalEvent | None = None
        self.violation: str | None = None
        self._told: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pending and self.violation is None:
            self._line(bytes(self._pending))
        self._pending.clear()
        if self._left_out_bytes:
            self._write_note()
        self._file.close()

    @property
    def is_broken(self) -> bool:
        return self.violation is not None

    @property
    def has_answered(self) -> bool:
        return self.final is not None

    @property
    def progress_seconds(self) -> float:
        """From the first event of progress to the last one, as they came."""
        return self._told[-1] - self._told[0] if self._told else 0.0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of stdout, cut anywhere."""
        self.heard_bytes += len(data)
        if self.violation is not None:
            self._left_out_bytes += len(data)
            return
        begin = len(self._pending)
        self._pending += data
        while (end := self._pending.find(b"\n", begin)) >= 0 and self.violation is None:
            line = bytes(self._pending[:end])
            del self._pending[: end + 1]
            begin = 0
            self._line(line)
        if len(self._pending) > MAX_LINE_BYTES:
            shown = self._redaction.whole(bytes(self._pending[:_TAIL_BYTES]))
            self._violate(f"a line of more than {MAX_LINE_BYTES // 2**20} MiB", shown)
        if self.violation is not None:
            self._left_out_bytes += len(self._pending)
            self._pending.clear()

    def _line(self, said: bytes) -> None:
        if not said.strip():
            return None
        line = self._redaction.whole(said)
        try:
            event = EVENT.validate_json(line)
        except ValidationError as invalid:
            quoted = escaped(line[:_QUOTED_CHARACTERS].decode(errors="replace"))
            why = one_line(why_invalid(invalid, line), MAX_TEXT_CHARACTERS)
            return self._violate(f"a line that is no event ({why}): {quoted!r}", line)
        if self.final is not None:
            return self._violate(f"a {event.event!r} event after the final one", line)
        if isinstance(event, ResultEvent):
            if line != said:
                return self._violate("its result holds a secret that it was given", line)
            document = event.model_dump(mode="json")
            if found := next(unshowable_in(document), None):
                return self._violate(f"{found[0]} holds {found[1]}, which no text may hold", line)
        if isinstance(event, Progress):
            self._told[1:] = [time.monotonic()]
        if isinstance(event, ResultEvent | ErrorEvent):
            self.final = event
        if self._keep(line, at_any_rate=self.final is not None):
            self._on_event(_showable(event))
        return None

    def _violate(self, what: str, line: bytes) -> None:
        self.violation = what
        self._keep(line, at_any_rate=False)

    def _keep(self, line: bytes, *, at_any_rate: bool) -> bool:
        """Write a line, unless there is no room left for it; whether there was."""
        if self._kept_bytes + len(line) > MAX_KEPT_BYTES and not at_any_rate:
            self._left_out_bytes += len(line) + 1
            return False
        if self._left_out_bytes:
            self._write_note()
        self._kept_bytes += len(line) + 1
        self._file.write(line + b"\n")
        self._file.flush()
        return True

    def _write_note(self) -> None:
        note = Log(level=LogLevel.WARNING, message=f"{self._left_out_bytes} bytes of stdout were left out here")
        self._file.write(note.model_dump_json().encode() + b"\n")
        self._left_out_bytes = 0


def _showable(event: Event) -> Event:
    """The event as displays get it: each text in one line of bounded length, without control characters."""

    def shown(text: str) -> str:
        return one_line(text, MAX_TEXT_CHARACTERS)

    match event:
        case Log():
            return event.model_copy(update={"message": shown(event.message)})
        case Progress():
            return event.model_copy(update={"unit": shown(event.unit)})
        case Telemetry():
            return event.model_copy(update={"readings": {shown(name): one for name, one in event.readings.items()}})
        case ErrorEvent():
            return event.model_copy(update={"message": shown(event.message), "hint": shown(event.hint)})
    return event


class TextLog:
    """A worker's stderr as text: UTF-8 in lines, with nothing in it that makes a terminal do something, and with a mark
    in the place of each of its `secrets`.

    Of more than 64 MiB the beginning and the last 64 KiB are kept, with a line between them that says what is missing.
    """

    def __init__(self, file: BinaryIO, secrets: Iterable[str] = ()) -> None:
        self._file = file
        self._redaction = Redaction(secrets)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._written_bytes = 0
        self._tail = bytearray()
        self._left_out_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._take(self._redaction.end())
        if self._left_out_bytes:
            self._write(f"\n[{self._left_out_bytes} bytes of stderr were left out here]\n".encode())
        self._write(plain_lines(self._decoder.decode(bytes(self._tail), final=True)).encode())

    def feed(self, data: bytes) -> None:
        """Take the next bytes, cut anywhere."""
        self._take(self._redaction.feed(data))

    def _take(self, data: bytes) -> None:
        if self._written_bytes + len(data) <= MAX_KEPT_BYTES and not self._tail:
            self._write(plain_lines(self._decoder.decode(data)).encode())
            return
        self._tail += data
        if (beyond := len(self._tail) - _TAIL_BYTES) > _TAIL_BYTES:
            del self._tail[:beyond]
            self._left_out_bytes += beyond

    def _write(self, content: bytes) -> None:
        self._written_bytes += len(content)
        self._file.write(content)
        self._file.flush()
