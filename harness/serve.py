"""`python -m harness`: one request on stdin, events on stdout, the outcome as an exit status.

Covered: guarding stdout against libraries, turning every failure into one `error` event, publishing `/out/result.json`
by rename. Not covered: doing the work, which `harness.operations` finds.
"""

import errno
import io
import os
import sys
import time
import traceback
from pathlib import Path

from pydantic import ValidationError

from harness.contract import (
    REQUEST,
    RESULT_NAME,
    DescribeRequest,
    ErrorCode,
    ErrorEvent,
    ExitCode,
    FinalEvent,
    Operation,
    ResultEvent,
    Started,
    WorkRequest,
)
from harness.errors import BadRequest, DiskFull, OutOfMemory, WorkerError
from harness.reporter import Reporter
from harness.visible_devices import see_only

_FULL = (errno.ENOSPC, errno.EDQUOT)


def claim_stdout() -> io.TextIOBase:
    """Take the real stdout for events and point file descriptor 1 at stderr, for Python and C++ libraries alike."""
    sys.stdout.flush()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def main() -> int:
    """Serve one request and return the exit status."""
    reporter = Reporter(claim_stdout())
    request: DescribeRequest | WorkRequest | None = None
    try:
        request = _read_request(sys.stdin.buffer.read())
        final: FinalEvent = _serve(request, reporter)
    except Exception as failure:  # noqa: BLE001  whatever happens, the orchestrator gets exactly one final event
        final = _explain(failure, request)
    status = ExitCode.RESULT if isinstance(final, ResultEvent) else final.code.exit_code
    if isinstance(request, WorkRequest):
        try:
            _publish(final, Path(request.output))
        except OSError as failure:
            if isinstance(final, ResultEvent):  # what went wrong before stays the answer
                final = _explain(failure, request)
                status = final.code.exit_code
    reporter.emit(final)
    return int(status)


def _read_request(text: bytes) -> DescribeRequest | WorkRequest:
    if not text.strip():
        raise BadRequest("the request is empty", hint="write one JSON request to stdin and close it")
    try:
        return REQUEST.validate_json(text)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "request"
        raise BadRequest(
            f"the request does not follow contract 1: {where}: {first['msg']} ({invalid.error_count()} problem(s))",
            hint="compare it with harness/contract/schema.json",
        ) from invalid


def _serve(request: DescribeRequest | WorkRequest, reporter: Reporter) -> ResultEvent:
    if not isinstance(request, DescribeRequest):
        _check_output(Path(request.output))
        see_only(request.device)
    from harness.environment import describe_environment
    from harness.operations import perform

    reporter.emit(Started(id=request.id, operation=Operation(request.operation)))
    begin = time.monotonic()
    result = perform(request, reporter)
    wall_seconds = time.monotonic() - begin
    return ResultEvent(
        id=request.id, result=result, environment=describe_environment(request), wall_seconds=wall_seconds
    )


def _check_output(output: Path) -> None:
    # Of any text, only access() never raises. By effective rights: a worker of root's may have one beside its user's.
    if not (os.access(output, os.W_OK | os.X_OK, effective_ids=True) and output.is_dir()):
        raise BadRequest(
            f"the output {str(output)!r} is no folder that can be written to",
            hint="make the folder first, and name it as `output`",
        )


def _explain(failure: Exception, request: DescribeRequest | WorkRequest | None) -> ErrorEvent:
    traceback.print_exception(failure, file=sys.stderr)
    known = failure if isinstance(failure, WorkerError) else _translate(failure)
    identity = request.id if request is not None else None
    if known is not None:
        return ErrorEvent(id=identity, code=known.code, reason=known.reason, message=known.message, hint=known.hint)
    return ErrorEvent(
        id=identity,
        code=ErrorCode.INTERNAL,
        message=f"{type(failure).__name__}: {failure}",
        hint="the traceback is in the stage's stderr.log; please report it with request.json",
    )


def _translate(failure: Exception) -> WorkerError | None:
    if isinstance(failure, OSError) and failure.errno in _FULL:
        return DiskFull(f"no space left while writing: {failure}", hint="free space, or point the store elsewhere")
    if isinstance(failure, PermissionError) and failure.filename is not None:
        return BadRequest(
            f"{failure.filename} is closed to the worker, which is user {os.getuid()}: {failure.strerror}",
            hint="make what the run reads readable for everybody (chmod -R o+rX FOLDER)",
        )
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return OutOfMemory(
            f"out of memory: {failure}", hint="use a smaller batch, sequence length or model, or a larger device"
        )
    return None


def _publish(final: FinalEvent, output: Path) -> None:
    temporary = output / f".{RESULT_NAME}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(final.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(output / RESULT_NAME)
