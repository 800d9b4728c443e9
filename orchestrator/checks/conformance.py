"""Does an image keep the contract? Checks that any image can be put to, whatever it is written in.

They need no model and no data: `describe`, requests that must be refused, and how the worker takes being stopped. Every
worker runs as a stage's would: in a container without network and with a read-only root. Not covered: whether the
results of an image are right.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from harness.contract import (
    CONTRACT_VERSION,
    FINAL_EVENT,
    RESULT_NAME,
    BenchmarkParameters,
    DatasetSource,
    DescribeRequest,
    DescribeResult,
    Device,
    DeviceKind,
    ErrorCode,
    ErrorEvent,
    ExitCode,
    FetchParameters,
    FinalEvent,
    Operation,
    Parameters,
    ProfileParameters,
    Reason,
    ResultEvent,
    canonical_json,
    read_regular,
)
from orchestrator.documents import first_difference, why_invalid
from orchestrator.host.scratch import own_scratch
from orchestrator.host.worker_user import worker_user
from orchestrator.images.image import Image
from orchestrator.runtime.base import Completed, Ending, Invocation, RuntimeName
from orchestrator.runtime.launch import Launch, Launcher, RawAnswer, run_raw
from orchestrator.stages import Limits

_LIMITS = Limits(deadline_seconds=120, stop_seconds=10)
_WAITING = Limits(deadline_seconds=2, stop_seconds=5)
_LARGE_ID_CHARACTERS = 3 * 10**6
_NOBODY = (65534, 65534)


@dataclass(frozen=True)
class Check:
    """One rule, whether the image keeps it, and what was seen; `passed` None where it could not be put to it."""

    name: str
    passed: bool | None
    message: str


class _Broken(Exception):
    """The image broke the rule under test; the message says how."""


def check_image(runtime: Launcher, image: Image, device: DeviceKind) -> tuple[Check, ...]:
    """Put a prepared image to every check that the runtime can make; the process runtime cannot change users.

    Raises:
        RuntimeUnavailable: the runtime fails, which says nothing about the image.
    """
    worker = _Worker(runtime, image, Device(kind=device))
    return tuple(_check(name, rule) for name, rule in _rules(worker))


@dataclass(frozen=True)
class _Worker:
    runtime: Launcher
    image: Image
    device: Device

    def answer(
        self, stdin: bytes, *, user: tuple[int, int] | None = None, limits: Limits = _LIMITS, hold: bool = False
    ) -> RawAnswer:
        work = Launch(self.image, stdin, device=self.device, limits=limits, user=user, hold_stdin=hold)
        return run_raw(self.runtime, work)


def _rules(worker: _Worker) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "describe answers what image.toml says", lambda: _describes(worker, "check")
    yield "a request and an answer of 3 MB pass whole", lambda: _describes(worker, "x" * _LARGE_ID_CHARACTERS)
    yield "an empty stdin is a bad request", lambda: _refuses(worker, b"")
    yield "stdin that is not JSON is a bad request", lambda: _refuses(worker, b'{"contract": 1, "id": ')
    yield "an unknown operation is a bad request", lambda: _refuses(worker, _document(operation="levitate"))
    yield "an unknown field is a bad request", lambda: _refuses(worker, _document(colour="green"))
    yield "another contract version is a bad request", lambda: _refuses(worker, _document(contract=0))
    yield "an operation that it does not offer is unsupported", lambda: _declines(worker)
    yield "SIGTERM ends it while it waits", lambda: _ends_when_asked(worker)
    if worker.runtime.name is RuntimeName.DOCKER:
        yield "it works as a user that the image does not know", lambda: _describes(worker, "check", user=_NOBODY)


def _check(name: str, rule: Callable[[], str]) -> Check:
    try:
        return Check(name, True, rule())
    except _Broken as broken:
        return Check(name, False, str(broken))


def _describes(worker: _Worker, identity: str, *, user: tuple[int, int] | None = None) -> str:
    request = DescribeRequest(id=identity).model_dump_json().encode()
    answer = worker.answer(request, user=user)
    final = _final(answer)
    if not isinstance(final, ResultEvent):
        raise _Broken(f"it answered the error {final.code.value}: {final.message}")
    if final.id != identity:
        raise _Broken("its answer has another id than the request")
    if not isinstance(final.result, DescribeResult):
        raise _Broken(f"it answered a result of {final.result.operation}")
    said, described = (
        one.model_copy(update={"prebuilt": None})  # no image can hold its own digest
        for one in (final.result.image, worker.image.description)
    )
    if difference := first_difference(said, described):
        raise _Broken(f"what it says of itself is not what {worker.image.description_path.name} says: {difference}")
    return f"{answer.stdout_bytes} bytes in {answer.exit.wall_seconds:.1f} s"


def _refuses(worker: _Worker, stdin: bytes) -> str:
    final = _final(worker.answer(stdin))
    if not isinstance(final, ErrorEvent):
        raise _Broken("it answered with a result")
    if final.code is not ErrorCode.BAD_REQUEST:
        raise _Broken(f"it answered {final.code.value} instead of {ErrorCode.BAD_REQUEST.value}")
    return final.message[:100]


def _declines(worker: _Worker) -> str:
    """Ask, as a stage would, for an operation that the image does not list; this also tests `/out/result.json`."""
    operation, parameters = _not_offered(worker.image)
    with own_scratch() as scratch:
        completed, output = _invoke(worker, operation, parameters, scratch)
        if completed.violation is not None:
            raise _Broken(completed.violation)
        final = completed.final
        if not isinstance(final, ErrorEvent) or final.code is not ErrorCode.UNSUPPORTED:
            raise _Broken(f"its answer to {operation.value} is {'none' if final is None else final.event!r}")
        if final.reason is not Reason.OPERATION or completed.exit_code != ExitCode.UNSUPPORTED:
            raise _Broken(f"its reason is {final.reason} and its exit status {completed.exit_code}")
        written = output / RESULT_NAME
        try:
            text = read_regular(written)
            difference = first_difference(FINAL_EVENT.validate_json(text), final)
        except OSError as unreadable:
            raise _Broken(f"{RESULT_NAME} cannot be read: {type(unreadable).__name__}") from unreadable
        except ValidationError as invalid:
            raise _Broken(f"{RESULT_NAME} is no final event: {why_invalid(invalid, text)}") from invalid
        if difference:
            raise _Broken(f"{RESULT_NAME} differs from what it printed: {difference}")
        if written.stat().st_uid != worker_user()[0]:
            raise _Broken(f"{RESULT_NAME} belongs to user {written.stat().st_uid} instead of {worker_user()[0]}")
    return f"{operation.value}: {final.message[:80]}"


def _ends_when_asked(worker: _Worker) -> str:
    """Leave stdin open, so that the worker waits; at the deadline it gets SIGTERM."""
    ended = worker.answer(b"", limits=_WAITING, hold=True).exit
    if ended.ending is not Ending.TIMED_OUT:
        raise _Broken(f"it ended by itself, with status {ended.exit_code}, although stdin was still open")
    took_seconds = ended.wall_seconds - _WAITING.deadline_seconds
    if took_seconds > _WAITING.stop_seconds:
        raise _Broken(f"it went on for {took_seconds:.0f} s, until it was killed")
    return f"gone {took_seconds:.1f} s after the signal"


def _final(answer: RawAnswer) -> FinalEvent:
    """The one final event of a worker that kept to the rules for stdout and for its exit status."""
    if answer.violation is not None:
        raise _Broken(f"its stdout has {answer.violation}")
    if answer.exit.ending is not Ending.EXITED:
        raise _Broken(f"it was stopped: {answer.exit.ending.value}")
    if answer.final is None:
        tail = answer.stderr.decode(errors="replace").strip()[-200:]
        raise _Broken(f"it ended with status {answer.exit.exit_code} and without an answer: {tail}")
    final = answer.final
    expected = ExitCode.RESULT if isinstance(final, ResultEvent) else final.code.exit_code
    if answer.exit.exit_code != expected:
        raise _Broken(f"its answer calls for exit status {int(expected)}, but it ended with {answer.exit.exit_code}")
    return final


def _invoke(worker: _Worker, operation: Operation, parameters: Parameters, folder: Path) -> tuple[Completed, Path]:
    invocation = Invocation(
        image=worker.image,
        operation=operation,
        parameters=parameters,
        folder=folder,
        stage="check",
        run="check",
        device=worker.device,
        limits=_LIMITS,
    )
    return worker.runtime.run(invocation, lambda event: None, threading.Event()), invocation.output


def _not_offered(image: Image) -> tuple[Operation, Parameters]:
    possible: dict[Operation, Parameters] = {
        Operation.PROFILE: ProfileParameters(),
        Operation.BENCHMARK: BenchmarkParameters(backend="none"),
        Operation.FETCH: FetchParameters(source=DatasetSource(name="none")),
    }
    for operation, parameters in possible.items():
        if operation not in image.description.operations:
            return operation, parameters
    raise _Broken("it offers every operation, so none can be declined")


def _document(**changes: object) -> bytes:
    return canonical_json({"contract": CONTRACT_VERSION, "id": "check", "operation": "describe"} | changes)
