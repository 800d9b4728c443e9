import json
import threading

import pytest

from harness.contract import (
    DatasetDescriptor,
    DatasetSource,
    DeviceKind,
    ErrorCode,
    ErrorEvent,
    FetchParameters,
    FetchResult,
    Operation,
    ResultEvent,
    Started,
)
from orchestrator.runtime.base import Ending, Invocation
from orchestrator.stages import Limits
from tests.support.fake_runtime import FakeRuntime, Misbehaviour

RESULT = FetchResult(artifact=DatasetDescriptor(files={}, name="c4", origin="local", rows={"train": 3}))
ERROR = ErrorEvent(code=ErrorCode.MISSING_DATA, message="no source has it", hint="name another")


@pytest.fixture
def invocation(hostile, tmp_path):
    folder = tmp_path / "attempt"
    folder.mkdir()
    parameters = FetchParameters(source=DatasetSource(name="c4"))
    limits = Limits(deadline_seconds=0.2)
    return Invocation(hostile, Operation.FETCH, parameters, folder, "fetch-c4", "run", limits=limits)


def run(runtime, invocation, cancel=None):
    events = []
    return runtime.run(invocation, events.append, cancel or threading.Event()), events


def test_the_handlers_result_comes_back_as_a_workers_would(invocation):
    runtime = FakeRuntime(lambda request, output: (output / "made").write_text(request.id) and RESULT)

    completed, events = run(runtime, invocation)

    assert (completed.ending, completed.exit_code, completed.violation) == (Ending.EXITED, 0, None)
    assert isinstance(completed.final, ResultEvent)
    assert completed.final.result == RESULT
    assert [type(event) for event in events] == [Started, ResultEvent]
    assert json.loads((invocation.output / "result.json").read_text())["id"] == "fetch-c4"
    assert (invocation.output / "made").read_text() == "fetch-c4"
    assert [request.id for request in runtime.requests] == ["fetch-c4"]
    assert len((invocation.folder / "events.jsonl").read_text().splitlines()) == 2


def test_an_error_event_has_its_exit_status(invocation):
    completed, _ = run(FakeRuntime(lambda request, output: ERROR), invocation)

    assert (completed.exit_code, completed.final) == (5, ERROR)


def test_an_exception_in_the_handler_is_an_internal_error_with_its_traceback_kept(invocation):
    def broken(request, output):
        raise ZeroDivisionError("by nought")

    completed, _ = run(FakeRuntime(broken), invocation)

    assert completed.final.code is ErrorCode.INTERNAL
    assert "by nought" in completed.final.message
    assert "ZeroDivisionError" in (invocation.folder / "stderr.log").read_text()


@pytest.mark.parametrize(
    ("misbehaviour", "ending", "exit_code", "answered"),
    [
        (Misbehaviour.GARBAGE, Ending.BROKE_CONTRACT, -9, False),
        (Misbehaviour.TWICE, Ending.BROKE_CONTRACT, -9, True),
        (Misbehaviour.SILENT, Ending.EXITED, 0, False),
        (Misbehaviour.KILLED, Ending.EXITED, -9, False),
    ],
)
def test_it_misbehaves_as_told(invocation, misbehaviour, ending, exit_code, answered):
    completed, _ = run(FakeRuntime(lambda request, output: RESULT, misbehave=lambda request: misbehaviour), invocation)

    assert (completed.ending, completed.exit_code) == (ending, exit_code)
    assert (completed.final is not None) is answered
    assert (completed.violation is not None) is (ending is Ending.BROKE_CONTRACT)


def test_a_hang_ends_at_the_deadline_or_when_cancelled(invocation):
    runtime = FakeRuntime(lambda request, output: RESULT, misbehave=lambda request: Misbehaviour.HANGS)
    cancelled = threading.Event()
    cancelled.set()

    assert run(runtime, invocation)[0].ending is Ending.TIMED_OUT
    assert run(runtime, invocation, cancelled)[0].ending is Ending.CANCELLED


def test_its_identity_is_the_images_name(hostile):
    runtime = FakeRuntime(lambda request, output: RESULT)

    assert runtime.prepare(hostile, DeviceKind.CPU, lambda note: None) == "fake:hostile:cpu"
    assert runtime.identity(hostile, DeviceKind.CPU) == "fake:hostile:cpu"
