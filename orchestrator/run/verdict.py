"""What a finished worker amounts to: its result, or one failure with one sentence.

The file `result.json` is trusted, but only when the worker's stdout and exit status say the same.
"""

from pathlib import Path

from pydantic import ValidationError

from harness.contract import FINAL_EVENT, RESULT_NAME, ErrorCode, ErrorEvent, ExitCode, FinalEvent, ResultEvent
from orchestrator.documents import first_difference, why_invalid
from orchestrator.runtime.base import Completed, Ending
from orchestrator.stages import OUTPUT_NAME, STDERR_NAME
from orchestrator.store import Failure, FailureKind

_KINDS = {
    ErrorCode.BAD_REQUEST: FailureKind.BAD_REQUEST,
    ErrorCode.UNSUPPORTED: FailureKind.UNSUPPORTED,
    ErrorCode.OUT_OF_MEMORY: FailureKind.OUT_OF_MEMORY,
    ErrorCode.DISK_FULL: FailureKind.DISK_FULL,
    ErrorCode.MISSING_DATA: FailureKind.MISSING_DATA,
    ErrorCode.INTERNAL: FailureKind.INTERNAL,
}
_SIGKILL_STATUSES = (-9, 137)
_STDERR_TAIL_BYTES = 2000
_MEMORY_HINT = "give it more memory (limits.memory_gib), or use a smaller batch, sequence length or model"


def judge(stage: str, folder: Path, completed: Completed, deadline_seconds: float) -> ResultEvent | Failure:
    """Decide what `completed`, whose folder is `folder`, means for the stage with this id."""
    if completed.ending is Ending.CANCELLED:
        return Failure(kind=FailureKind.INTERRUPTED, message="stopped before it had finished")
    if completed.ending is Ending.TIMED_OUT:
        return Failure(
            kind=FailureKind.TIMED_OUT,
            message=f"no answer within {deadline_seconds:.0f} s; the worker was stopped",
            hint="raise limits.deadline_seconds in the manifest, or ask for less",
        )
    if completed.ending is Ending.KILLED_FOR_MEMORY:
        return Failure(
            kind=FailureKind.OUT_OF_MEMORY, message="the host killed the worker for its memory", hint=_MEMORY_HINT
        )
    if completed.violations:
        return _violation(completed.violations[0])
    if completed.final is None:
        return _died(folder, completed.exit_code)
    return _weigh(stage, folder, completed.final, completed.exit_code)


def _weigh(stage: str, folder: Path, final: FinalEvent, exit_code: int) -> ResultEvent | Failure:
    if exit_code != (ExitCode.RESULT if isinstance(final, ResultEvent) else final.code.exit_code):
        return _violation(f"its answer says {final.event!r}, its exit status {exit_code} says otherwise")
    if isinstance(final, ErrorEvent):
        return Failure(kind=_KINDS[final.code], message=final.message, hint=final.hint, reason=final.reason)
    if final.id != stage:
        return _violation(f"it answered request {final.id!r} instead of {stage!r}")
    try:
        text = (folder / OUTPUT_NAME / RESULT_NAME).read_bytes()
        written = FINAL_EVENT.validate_json(text)
    except OSError as unreadable:
        return _violation(f"{RESULT_NAME} cannot be read: {type(unreadable).__name__}")
    except ValidationError as invalid:
        return _violation(f"{RESULT_NAME} is no final event: {why_invalid(invalid, text)}")
    if difference := first_difference(written, final):
        return _violation(f"{RESULT_NAME} differs from what it printed: {difference}")
    return final


def _violation(what: str) -> Failure:
    return Failure(
        kind=FailureKind.CONTRACT_VIOLATION,
        message=f"the worker broke the contract: {what}",
        hint="check the image with `orchestrator images check`; its output is kept beside the request",
    )


def _died(folder: Path, exit_code: int) -> Failure:
    if exit_code in _SIGKILL_STATUSES:
        return Failure(
            kind=FailureKind.OUT_OF_MEMORY,
            message="the worker was killed by signal 9, as the kernel does when memory runs out",
            hint=_MEMORY_HINT,
        )
    tail = _last_line(folder / STDERR_NAME)
    return Failure(
        kind=FailureKind.CRASHED,
        message=f"the worker ended with status {exit_code} and no answer{f': {tail}' if tail else ''}",
        hint=f"its {STDERR_NAME} is kept beside the request",
    )


def _last_line(path: Path) -> str:
    if not path.is_file():
        return ""
    text = path.read_bytes()[-_STDERR_TAIL_BYTES:].decode(errors="replace").strip()
    return text.splitlines()[-1] if text else ""
