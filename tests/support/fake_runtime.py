"""A runtime without containers, processes or torch: a function answers the requests.

Meant for tests of anything above the runtime, here and in projects that build on this one. It writes the files that a
real runtime writes, through the same `EventStream`, and can misbehave in the ways that workers do.
"""

import threading
import time
import traceback
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path

from harness.contract import (
    RESULT_NAME,
    DeviceKind,
    Environment,
    ErrorCode,
    ErrorEvent,
    Event,
    ExitCode,
    FinalEvent,
    Operation,
    Result,
    ResultEvent,
    Started,
    WorkRequest,
    harness_digest,
)
from orchestrator.images.image import Image
from orchestrator.runtime.base import Completed, Ending, Invocation, RuntimeName
from orchestrator.runtime.stream import EventStream
from orchestrator.stages import EVENTS_NAME, REQUEST_NAME, STDERR_NAME, ImageIdentity

Handler = Callable[[WorkRequest, Path], Result | ErrorEvent]
_KILLED = -9
_POLL_SECONDS = 0.01


class Misbehaviour(StrEnum):
    """What a worker does instead of, or beside, answering once and ending."""

    GARBAGE = "prints a line that is no event, then answers"
    TWICE = "answers twice"
    SILENT = "ends with status 0 and no answer"
    KILLED = "is killed by signal 9 without an answer"
    HANGS = "neither answers nor ends until it is stopped"


class FakeRuntime:
    """`handler` gets the request and the output folder, and returns the result or the error event.

    An exception in the handler becomes an `internal` error, as in a real worker. `misbehave` is asked at each request;
    `tell` gives the events that come before the answer, whose time it may take.
    The requests served are kept in `requests`.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        misbehave: Callable[[WorkRequest], Misbehaviour | None] = lambda _: None,
        tell: Callable[[WorkRequest], Iterable[Event]] = lambda _: (),
    ) -> None:
        self._handler = handler
        self._misbehave = misbehave
        self._tell = tell
        self.requests: list[WorkRequest] = []

    @property
    def name(self) -> RuntimeName:
        return RuntimeName.FAKE

    def prepare(self, image: Image, device: DeviceKind, note: Callable[[str], None]) -> ImageIdentity:
        """Nothing is built; the identity is the image's name."""
        return self.identity(image, device)

    def identity(self, image: Image, device: DeviceKind) -> ImageIdentity:
        return ImageIdentity(f"fake:{image.name}:{device.value}")

    def run(self, invocation: Invocation, on_event: Callable[[Event], None], cancel: threading.Event) -> Completed:
        """Answer the request in this thread."""
        begin = time.monotonic()
        invocation.output.mkdir(exist_ok=True)  # and no folder above it: a store that was taken away stays so
        inputs = {name: str(path) for name, path in invocation.inputs.items()}
        request = invocation.request(inputs, str(invocation.output))
        self.requests.append(request)
        (invocation.folder / REQUEST_NAME).write_text(request.model_dump_json(), encoding="utf-8")
        (invocation.folder / STDERR_NAME).touch()
        with EventStream(invocation.folder / EVENTS_NAME, on_event) as stream:
            stream.feed(_line(Started(id=request.id, operation=Operation(request.operation))))
            ending, exit_code = self._serve(request, invocation, stream, cancel)
            if stream.is_broken:
                ending, exit_code = Ending.BROKE_CONTRACT, _KILLED
        return Completed(
            ending=ending,
            exit_code=exit_code,
            wall_seconds=time.monotonic() - begin,
            final=stream.final,
            violation=stream.violation,
        )

    def close(self) -> None:
        pass

    def sweep(self) -> tuple[str, ...]:
        return ()

    def _serve(
        self, request: WorkRequest, invocation: Invocation, stream: EventStream, cancel: threading.Event
    ) -> tuple[Ending, int]:
        misbehaviour = self._misbehave(request)
        if cancel.is_set():
            return Ending.CANCELLED, _KILLED
        if misbehaviour is Misbehaviour.HANGS:
            return _hang(invocation.limits.deadline_seconds, cancel), _KILLED
        if misbehaviour is Misbehaviour.KILLED:
            return Ending.EXITED, _KILLED
        if misbehaviour is Misbehaviour.SILENT:
            return Ending.EXITED, int(ExitCode.RESULT)
        if misbehaviour is Misbehaviour.GARBAGE:
            stream.feed(b"Loading checkpoint shards: 100%\n")
        for event in self._tell(request):
            stream.feed(_line(event))
        final = self._answer(request, invocation)
        (invocation.output / RESULT_NAME).write_text(final.model_dump_json(), encoding="utf-8")
        stream.feed(_line(final) * (2 if misbehaviour is Misbehaviour.TWICE else 1))
        return Ending.EXITED, int(ExitCode.RESULT if isinstance(final, ResultEvent) else final.code.exit_code)

    def _answer(self, request: WorkRequest, invocation: Invocation) -> FinalEvent:
        begin = time.monotonic()
        try:
            answer = self._handler(request, invocation.output)
        except Exception as failure:  # noqa: BLE001  a real worker turns every failure into one event, too
            (invocation.folder / STDERR_NAME).write_text("".join(traceback.format_exception(failure)))
            message = f"{type(failure).__name__}: {failure}"
            return ErrorEvent(id=request.id, code=ErrorCode.INTERNAL, message=message, hint="see stderr.log")
        if isinstance(answer, ErrorEvent):
            return answer
        wall_seconds = time.monotonic() - begin
        return ResultEvent(
            id=request.id, result=answer, environment=environment_of_a_fake(request), wall_seconds=wall_seconds
        )


def environment_of_a_fake(request: WorkRequest) -> Environment:
    return Environment(
        harness_digest=harness_digest(),
        python="fake",
        platform="fake",
        device_kind=request.device.kind,
        device_model="fake",
        cpu_family="fake",
        threads=request.device.threads or 1,
        libraries={},
    )


def _hang(deadline_seconds: float, cancel: threading.Event) -> Ending:
    give_up = time.monotonic() + deadline_seconds
    while time.monotonic() < give_up:
        if cancel.wait(_POLL_SECONDS):
            return Ending.CANCELLED
    return Ending.TIMED_OUT


def _line(event: Event) -> bytes:
    return event.model_dump_json().encode() + b"\n"
