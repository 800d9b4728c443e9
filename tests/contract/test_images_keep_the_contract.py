import json
import threading

import pytest

from harness.contract import (
    DescribeRequest,
    DeviceKind,
    EvaluateParameters,
    ExitCode,
    Operation,
    ProfileParameters,
    Reason,
    ResultEvent,
    harness_digest,
)
from orchestrator.checks.conformance import check_image
from orchestrator.runtime.base import Invocation
from orchestrator.runtime.launch import Launch, run_raw


def test_an_image_of_the_harness_passes_every_check(runtime, plain):
    checks = check_image(runtime, plain, DeviceKind.CPU)

    assert len(checks) >= 9
    assert [f"{check.name}: {check.message}" for check in checks if not check.passed] == []


def test_a_worker_without_manners_fails_and_each_failure_says_what_was_seen(hostile_runtime, hostile):
    checks = {check.name: check for check in check_image(hostile_runtime, hostile, DeviceKind.CPU)}

    assert not any(check.passed for name, check in checks.items() if "bad request" in name or "describe" in name)
    assert "without an answer" in checks["an empty stdin is a bad request"].message
    ending = checks["SIGTERM ends it while it waits"]
    assert not ending.passed
    assert "until it was killed" in ending.message


def test_describe_names_the_harness_that_the_orchestrator_has(runtime, plain):
    answer = run_raw(runtime, Launch(plain, DescribeRequest(id="who").model_dump_json().encode()))

    final = answer.final
    assert isinstance(final, ResultEvent)
    assert answer.exit.exit_code == ExitCode.RESULT
    assert final.result.image == plain.description
    assert final.environment.harness_digest == harness_digest()


@pytest.mark.parametrize(
    ("operation", "parameters", "reason"),
    [
        (Operation.PROFILE, ProfileParameters(), Reason.OPERATION),
        (Operation.EVALUATE, EvaluateParameters(task="no-such-task"), Reason.TASK),
    ],
)
def test_what_an_image_cannot_do_is_one_error_in_every_place(runtime, plain, tmp_path, operation, parameters, reason):
    folder = tmp_path / "attempt"
    folder.mkdir()
    events = []
    invocation = Invocation(plain, operation, parameters, folder, "stage", "run")

    completed = runtime.run(invocation, events.append, threading.Event())

    assert completed.violation is None
    assert completed.final.reason is reason
    assert completed.exit_code == completed.final.code.exit_code
    assert [event.event for event in events] == ["started", "error"]
    assert json.loads((invocation.output / "result.json").read_text()) == completed.final.model_dump(mode="json")
