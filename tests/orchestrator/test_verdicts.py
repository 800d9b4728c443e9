"""Whatever a worker does, the orchestrator comes to one verdict; only full agreement is a result."""

from pathlib import Path

import pytest

from harness.contract import (
    RESULT_NAME,
    DeviceKind,
    Dtype,
    Environment,
    ErrorCode,
    ErrorEvent,
    EvaluateResult,
    FinalEvent,
    Reason,
    ResultEvent,
)
from orchestrator.run.verdict import judge
from orchestrator.runtime.base import Completed, Ending
from orchestrator.stages import OUTPUT_NAME, STDERR_NAME
from orchestrator.store import Failure, FailureKind

ENVIRONMENT = Environment(
    harness_digest="0", python="3", platform="p", device_kind=DeviceKind.CPU, device_model="m", threads=1, libraries={}
)
RESULT = EvaluateResult(
    task="t",
    protocol="p",
    metric="acc",
    metrics={"acc": 0.5},
    items=1,
    items_available=1,
    items_file="items",
    dataset_origin="local",
    dtype=Dtype.FLOAT32,
    dtype_reason="r",
    wall_seconds=1,
)
ANSWER = ResultEvent(id="stage", result=RESULT, environment=ENVIRONMENT, wall_seconds=1)
UNSUPPORTED = ErrorEvent(id="stage", code=ErrorCode.UNSUPPORTED, reason=Reason.SHAPE, message="no", hint="other")


def verdict(
    folder: Path,
    *,
    ending: Ending = Ending.EXITED,
    exit_code: int = 0,
    final: FinalEvent | None = ANSWER,
    violations: tuple[str, ...] = (),
    written: str | None = ANSWER.model_dump_json(),
) -> ResultEvent | Failure:
    (folder / OUTPUT_NAME).mkdir()
    if written is not None:
        (folder / OUTPUT_NAME / RESULT_NAME).write_text(written, encoding="utf-8")
    (folder / STDERR_NAME).write_text("first\nlast words\n", encoding="utf-8")
    completed = Completed(ending, exit_code, 1.0, final, violations)
    return judge("stage", folder, completed, deadline_seconds=5)


def test_agreement_of_stdout_file_and_status_is_a_result(tmp_path: Path) -> None:
    assert verdict(tmp_path) == ANSWER


@pytest.mark.parametrize(
    ("facts", "kind", "words"),
    [
        ({"ending": Ending.TIMED_OUT, "final": None}, FailureKind.TIMED_OUT, "5 s"),
        ({"ending": Ending.CANCELLED, "final": None}, FailureKind.INTERRUPTED, "stopped"),
        ({"ending": Ending.KILLED_FOR_MEMORY, "exit_code": 137}, FailureKind.OUT_OF_MEMORY, "memory"),
        ({"exit_code": -9, "final": None}, FailureKind.OUT_OF_MEMORY, "signal 9"),
        ({"exit_code": 1, "final": None}, FailureKind.CRASHED, "last words"),
        ({"violations": ("a line that is no event: 'hello'",)}, FailureKind.CONTRACT_VIOLATION, "hello"),
        ({"exit_code": 5}, FailureKind.CONTRACT_VIOLATION, "says otherwise"),
        ({"written": None}, FailureKind.CONTRACT_VIOLATION, RESULT_NAME),
        ({"written": "{"}, FailureKind.CONTRACT_VIOLATION, RESULT_NAME),
        (
            {"written": ANSWER.model_copy(update={"wall_seconds": 2.0}).model_dump_json()},
            FailureKind.CONTRACT_VIOLATION,
            "differs",
        ),
        ({"final": ANSWER.model_copy(update={"id": "other"})}, FailureKind.CONTRACT_VIOLATION, "'other'"),
        ({"final": UNSUPPORTED, "exit_code": 3}, FailureKind.UNSUPPORTED, "no"),
        ({"final": UNSUPPORTED, "exit_code": 0}, FailureKind.CONTRACT_VIOLATION, "says otherwise"),
    ],
)
def test_everything_else_is_one_failure(
    tmp_path: Path, facts: dict[str, object], kind: FailureKind, words: str
) -> None:
    failure = verdict(tmp_path, **facts)  # type: ignore[arg-type]
    assert isinstance(failure, Failure)
    assert failure.kind is kind
    assert words in failure.message


def test_unsupported_keeps_its_reason_and_hint(tmp_path: Path) -> None:
    failure = verdict(tmp_path, final=UNSUPPORTED, exit_code=3)
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.hint) == (Reason.SHAPE, "other")
