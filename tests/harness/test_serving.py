"""`python -m harness`: whatever the operation does, stdout holds events alone and the last one is the outcome."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import serve as serving
from harness.contract import DescribeRequest, ErrorCode, ErrorEvent
from harness.environment import describe_environment
from tests.support.disk_calls import Call, DiskCalls

PROFILE = {
    "disk_bytes": 1,
    "weight_bytes": 1,
    "parameter_count": 1,
    "macs": {},
    "macs_tokens": 1,
    "memory": {"peak_memory_bytes": 1, "method": "peak-rss"},
    "kv_cache_bytes": 1,
    "protocol": "p",
    "dtype": "float32",
    "dtype_reason": "test",
}
STATUSES = dict.fromkeys(ErrorCode, 5) | {
    ErrorCode.BAD_REQUEST: 2,
    ErrorCode.UNSUPPORTED: 3,
    ErrorCode.OUT_OF_MEMORY: 4,
}
PROJECT = Path(__file__).parents[2]
WRAPPER = """
import errno, os, sys
import harness.operations
from harness.contract import Memory, Reason
from harness.errors import Unsupported

def perform(request, reporter):
    {body}

harness.operations.perform = perform
from harness.serve import main
sys.exit(main())
"""


def serve(output: Path, body: str, request: str | None = None) -> tuple[int, list[dict[str, Any]], str]:
    """Run the worker with an operation whose body is `body`; returns status, events and stderr."""
    asked = {"id": "x", "operation": "profile", "inputs": {}, "output": str(output), "parameters": {}}
    done = subprocess.run(
        [sys.executable, "-c", WRAPPER.format(body=body)],
        input=json.dumps(asked) if request is None else request,
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_what_libraries_print_goes_to_stderr(tmp_path: Path) -> None:
    noise = "print('from python'); os.write(1, b'from C\\n'); os.system('echo from a child'); raise MemoryError('big')"
    status, events, stderr = serve(tmp_path, noise)
    assert [event["event"] for event in events] == ["started", "error"]
    assert all(words in stderr for words in ("from python", "from C", "from a child"))
    assert (status, events[-1]["code"]) == (4, "out_of_memory")


def test_the_outcome_is_also_a_file(tmp_path: Path) -> None:
    _, events, _ = serve(tmp_path, "raise Unsupported(Reason.SHAPE, 'width 3', hint='another')")
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == events[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("raise OSError(errno.ENOSPC, 'No space left on device')", 5, "disk_full"),
        ("raise ValueError('surprise')", 5, "internal"),
        ("raise MemoryError('big')", 4, "out_of_memory"),
        ("raise type('OutOfMemoryError', (RuntimeError,), dict())('CUDA out of memory')", 4, "out_of_memory"),
        ("raise Unsupported(Reason.SHAPE, 'width 3', hint='another')", 3, "unsupported"),
    ],
)
def test_each_failure_has_its_code_status_and_hint(tmp_path: Path, body: str, status: int, code: str) -> None:
    found, events, _ = serve(tmp_path, body)
    assert (found, events[-1]["code"]) == (status, code)
    assert events[-1]["hint"]


@pytest.mark.parametrize(
    ("request_text", "words"),
    [
        ("", "empty"),
        ("{", "JSON"),
        ('{"id": "x", "operation": "paint"}', "operation"),
        ('{"contract": 2, "id": "x", "operation": "describe"}', "contract"),
    ],
)
def test_a_bad_request_says_what_is_wrong_with_it(tmp_path: Path, request_text: str, words: str) -> None:
    status, events, _ = serve(tmp_path, "raise AssertionError('never asked')", request_text)
    assert (status, [event["event"] for event in events]) == (2, ["error"])
    assert words in events[-1]["message"]


NOT_USABLE = {"absent": "absent", "a file": "file", "a file's inside": "file/inside", "endless": "x" * 5000}


@pytest.mark.parametrize("name", NOT_USABLE)
def test_an_output_that_cannot_be_written_to_is_a_bad_request_before_any_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    status, events, _ = serve(tmp_path / NOT_USABLE[name], "raise AssertionError('never asked')")
    assert (status, [event["event"] for event in events]) == (2, ["error"])
    assert events[-1]["code"] == "bad_request"
    assert events[-1]["message"].endswith("is no folder that can be written to")


@pytest.mark.parametrize("output", ["", "\0", "a\0b"])
def test_an_output_that_no_folder_can_be_called_is_a_bad_request(tmp_path: Path, output: str) -> None:
    asked = {"id": "x", "operation": "profile", "inputs": {}, "output": output, "parameters": {}}
    status, events, _ = serve(tmp_path, "raise AssertionError('never asked')", json.dumps(asked))
    assert (status, [event["event"] for event in events]) == (2, ["error"])
    assert "output" in events[-1]["message"]
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_no_path_can_be_called_is_a_bad_request(tmp_path: Path) -> None:
    asked = {"id": "x", "operation": "profile", "inputs": {"a": "\0"}, "output": str(tmp_path), "parameters": {}}
    status, events, _ = serve(tmp_path, "raise AssertionError('never asked')", json.dumps(asked))
    assert (status, events[-1]["code"]) == (2, "bad_request")
    assert "inputs.a" in events[-1]["message"]


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (
            f"from harness.contract import ProfileResult; return ProfileResult.model_validate({PROFILE!r})",
            5,
            "internal",
        ),
        ("from harness.errors import BadRequest; raise BadRequest('wrong', hint='right')", 2, "bad_request"),
        ("raise Unsupported(Reason.SHAPE, 'width 3', hint='another')", 3, "unsupported"),
    ],
)
def test_an_output_that_vanishes_costs_a_result_and_leaves_an_error_what_it_is(
    tmp_path: Path, end: str, status: int, code: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    found, events, _ = serve(out, f"os.rmdir({str(out)!r}); {end}")
    assert (found, [event["event"] for event in events]) == (status, ["started", "error"])
    assert events[-1]["code"] == code


def test_a_result_that_was_written_is_one(tmp_path: Path) -> None:
    body = f"from harness.contract import ProfileResult; return ProfileResult.model_validate({PROFILE!r})"
    status, events, _ = serve(tmp_path, body)
    assert (status, events[-1]["event"]) == (0, "result")


def test_what_the_worker_may_not_read_is_said_with_what_to_do(tmp_path: Path) -> None:
    body = "raise PermissionError(13, 'Permission denied', '/in/checkpoint/config.json')"
    status, events, _ = serve(tmp_path, body)
    assert (status, events[-1]["code"]) == (2, "bad_request")
    assert events[-1]["message"].startswith("/in/checkpoint/config.json is closed to the worker, which is user ")
    assert "chmod" in events[-1]["hint"]


def test_the_outcome_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    disk = DiskCalls(tmp_path / "out", tmp_path / "states")
    disk.folder.mkdir()
    error = ErrorEvent(id="x", code=ErrorCode.INTERNAL, message="surprise", hint="report it")
    with disk.watch():
        serving._publish(error, disk.folder)
    temporary = disk.calls[0].path
    assert disk.calls == [
        Call("write", temporary),
        Call("fsync", temporary),
        Call("replace", temporary, disk.folder / "result.json"),
    ]


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_ends_a_worker_with_the_status_that_the_contract_gives_it(
    tmp_path: Path, code: ErrorCode
) -> None:
    body = f"from harness.errors import WorkerError; e = WorkerError('m', hint='h'); e.code = {code.value!r}; raise e"
    status, events, _ = serve(tmp_path, body)
    assert (status, events[-1]["code"]) == (STATUSES[code], code.value)


def test_a_result_names_every_distribution_of_its_environment() -> None:
    found = describe_environment(DescribeRequest(id="x")).libraries
    assert found["pydantic"] == importlib.metadata.version("pydantic")
    assert found["typing-extensions"] == importlib.metadata.version("typing_extensions")
    assert len(found) == len({one.name.lower().replace("_", "-") for one in importlib.metadata.distributions()})


def test_events_are_utf_8_whatever_the_locale_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LC_ALL", "POSIX"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    status, events, _ = serve(tmp_path, r'raise Unsupported(Reason.SETTING, "caf\u00e9", hint="x")')
    assert (status, events[-1]["message"]) == (3, "caf\u00e9")
