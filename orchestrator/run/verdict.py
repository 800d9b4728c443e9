"""What a finished worker amounts to: its result, or one failure with one sentence.

The file `result.json` is trusted, but only when the worker's stdout and exit status say the same, and its figures are
those that the outcomes, samples and parts beside them give.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from harness.contract import (
    FINAL_EVENT,
    RESULT_NAME,
    ErrorCode,
    ErrorEvent,
    ExitCode,
    FinalEvent,
    ResultEvent,
    read_regular,
)
from orchestrator.documents import first_difference, why_invalid
from orchestrator.figures.checking import Kept, check
from orchestrator.figures.items_file import Contradiction
from orchestrator.run.claims import false_claims
from orchestrator.run.plausible import implausible
from orchestrator.runtime.base import Completed, Ending, Invocation
from orchestrator.stages import STDERR_NAME, Limits
from orchestrator.store import Failure, FailureKind

_KINDS = {
    ErrorCode.BAD_REQUEST: FailureKind.BAD_REQUEST,
    ErrorCode.UNSUPPORTED: FailureKind.UNSUPPORTED,
    ErrorCode.OUT_OF_MEMORY: FailureKind.OUT_OF_MEMORY,
    ErrorCode.DISK_FULL: FailureKind.DISK_FULL,
    ErrorCode.MISSING_DATA: FailureKind.MISSING_DATA,
    ErrorCode.IMPLAUSIBLE: FailureKind.IMPLAUSIBLE,
    ErrorCode.INTERNAL: FailureKind.INTERNAL,
}
_SIGKILL_STATUSES = (-9, 137)
_STDERR_TAIL_BYTES = 2000
_MEMORY_HINT = "give it more memory (limits.memory_gib), or use a smaller batch, sequence length or model"


def judge(asked: Invocation, completed: Completed) -> ResultEvent | Failure:
    """Decide what the end of the worker that was asked this amounts to."""
    if completed.ending is Ending.CANCELLED:
        return Failure(kind=FailureKind.INTERRUPTED, message="stopped before it had finished")
    if completed.ending is Ending.TIMED_OUT:
        if completed.final is not None:
            return violation(f"it answered, and had not ended after {asked.limits.deadline_seconds:.0f} s")
        return Failure(
            kind=FailureKind.TIMED_OUT,
            message=f"no answer within {asked.limits.deadline_seconds:.0f} s; the worker was stopped",
            hint="raise limits.deadline_seconds in the manifest, or ask for less",
        )
    if completed.ending is Ending.KILLED_FOR_MEMORY:
        return Failure(
            kind=FailureKind.OUT_OF_MEMORY,
            message=f"the worker was killed for its memory: it wanted more than {_allowed(asked.limits)}",
            hint=_MEMORY_HINT,
        )
    if completed.ending is Ending.KILLED_FOR_DISK:
        return Failure(
            kind=FailureKind.DISK_FULL,
            message="the worker was killed, since the disk below its output was almost full; what it wrote was removed",
            hint="free space with `orchestrator clean`, or give the store a larger disk; where one image alone does"
            " this, it writes what it should not",
        )
    if completed.violation is not None:
        return violation(completed.violation)
    if completed.ending is Ending.STAYED:
        return violation(f"it answered, and {asked.limits.leave_seconds:.0f} s later it had not ended")
    if completed.final is None:
        return _died(asked.folder, completed.exit_code)
    return _weigh(asked, completed, completed.final)


def _weigh(asked: Invocation, completed: Completed, final: FinalEvent) -> ResultEvent | Failure:
    exit_code = completed.exit_code
    if exit_code != (ExitCode.RESULT if isinstance(final, ResultEvent) else final.code.exit_code):
        return violation(f"its answer says {final.event!r}, its exit status {exit_code} says otherwise")
    if isinstance(final, ErrorEvent):
        if final.id not in (None, asked.stage):
            return violation(f"it answered request {final.id!r} instead of {asked.stage!r}")
        return Failure(kind=_KINDS[final.code], message=final.message, hint=final.hint, reason=final.reason)
    if wrong := next(_answers_to_something_else(asked, final), None):
        return violation(wrong)
    try:
        text = read_regular(asked.output / RESULT_NAME)
        written = FINAL_EVENT.validate_json(text)
    except OSError as unreadable:
        return violation(f"{RESULT_NAME} cannot be read: {unreadable.strerror or unreadable}")
    except ValidationError as invalid:
        return violation(f"{RESULT_NAME} is no final event: {why_invalid(invalid, text)}")
    if difference := first_difference(written, final):
        return violation(f"{RESULT_NAME} differs from what it printed: {difference}")
    try:
        check(final.result, Kept(asked.output, asked.parameters.model_dump(mode="json")))
    except Contradiction as contradiction:
        return violation(f"its result is not what its parts give: {contradiction}")
    if impossible := implausible(asked, completed, final.result):
        return Failure(
            kind=FailureKind.IMPLAUSIBLE,
            message=f"a figure that cannot be: {impossible}",
            hint="the image measures something else than its own work here; its output is kept beside the request",
        )
    return final


def _answers_to_something_else(asked: Invocation, final: ResultEvent) -> Iterator[str]:
    """The fields in which the answer is not one to what was asked, or contradicts its inputs or itself."""
    if final.id != asked.stage:
        yield f"it answered request {final.id!r} instead of {asked.stage!r}"
    if final.result.operation != asked.operation:
        yield f"result.operation is {final.result.operation!r}, and {asked.operation.value!r} was asked for"
        return
    yield from false_claims(asked, final.result)


def violation(what: str) -> Failure:
    """The failure of a worker whose answer cannot be right."""
    return Failure(
        kind=FailureKind.CONTRACT_VIOLATION,
        message=f"the worker broke the contract: {what}",
        hint="check the image with `orchestrator images check`; its output is kept beside the request",
    )


def _allowed(limits: Limits) -> str:
    gibibytes = f"{limits.most_memory_bytes / 2**30:.1f} GiB"
    if limits.memory_bytes is not None:
        return f"the {gibibytes} of limits.memory_gib"
    return f"the {gibibytes} that this machine has to spare"


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
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES, 0))
        text = file.read().decode(errors="replace").strip()
    return text.splitlines()[-1] if text else ""
