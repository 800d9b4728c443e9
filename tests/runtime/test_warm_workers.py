"""A worker that is a fork of a process with all imports done: it is what a fresh one is, and leaves as little."""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.contract.warm import Order
from orchestrator.runtime.base import Ending
from orchestrator.runtime.launch import Exit, Watch
from orchestrator.runtime.stream import TextLog
from orchestrator.runtime.supervision import Outlets, supervise
from orchestrator.runtime.survivors import INVOCATION_VARIABLE, find_survivors, kill_survivors
from orchestrator.runtime.warm import NoWorker, WarmServer, WarmServers
from orchestrator.stages import Limits

PROJECT = Path(__file__).parents[2]
TOKEN = "0" * 32
WORKER = "tests.support.warm_worker"
PATIENCE_SECONDS = 60


class Heard:
    def __init__(self) -> None:
        self.text = b""
        self.is_broken = False
        self.has_answered = False
        self.came = threading.Event()

    def feed(self, data: bytes) -> None:
        self.text += data
        self.came.set()


@dataclass
class Done:
    exit: Exit
    found: dict
    log: str


def variables(token: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), INVOCATION_VARIABLE: token}


def server(folder: Path, token: str = TOKEN) -> WarmServer:
    return WarmServer([sys.executable, "-m", "harness.warm"], variables(token), folder)


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[WarmServers]:
    with closing(WarmServers()) as servers:
        yield servers
    assert find_survivors(TOKEN) == []


def do(warm: WarmServers, folder: Path, asked: str, *, modules=(WORKER,), during=None) -> Done:
    """Have one worker do what is asked. `during` gets its first words."""
    home = folder / secrets.token_hex(4)
    home.mkdir()
    (home / "stdin").write_text(asked, encoding="utf-8")
    token, heard = secrets.token_hex(16), Heard()
    order = Order(
        modules=modules, variables=variables(token) | {"HOME": str(home)}, folder=home, mark=INVOCATION_VARIABLE
    )
    cancel = threading.Event()
    watch = Watch(Limits(), cancel, heard)
    if during is not None:
        threading.Thread(
            target=lambda: heard.came.wait(PATIENCE_SECONDS) and during(json.loads(heard.text), token, cancel)
        ).start()
    try:
        with (
            (home / "stdin").open("rb") as stdin,
            (home / "log").open("wb") as file,
            TextLog(file) as log,
            warm.worker("kind", lambda stack: server(folder), order, stdin, watch, log) as worker,
        ):
            ended = None if worker is None else supervise(worker, Outlets(heard, log), watch)
    finally:
        kill_survivors(token)
    found = json.loads(heard.text) if heard.text else {}
    return Done(ended, found, (home / "log").read_text(encoding="utf-8"))


def test_workers_are_forks_of_one_process_each_in_a_session_and_a_folder_of_its_own(warm, tmp_path):
    first, second = (do(warm, tmp_path, "") for _ in range(2))
    for one in (first, second):
        assert one.exit.ending is Ending.EXITED
        assert one.exit.exit_code == 0
        assert one.exit.peak_memory_bytes > 0
        assert one.found["group"] == one.found["pid"]
        assert one.found["variables"]["HOME"] == one.found["folder"]
    assert first.found["folder"] != second.found["folder"]
    assert first.found["pid"] != second.found["pid"]


def test_what_a_worker_does_to_its_process_no_other_sees(warm, tmp_path):
    before, _, after = (do(warm, tmp_path, asked).found for asked in ("", "spoil", ""))
    assert set(after["modules"]) ^ set(before["modules"]) == set()
    own = {"pid", "group", "folder", "variables", "drawn"}
    assert {name: value for name, value in after.items() if name not in own} == {
        name: value for name, value in before.items() if name not in own
    }
    assert after["variables"].keys() == before["variables"].keys()
    assert after["drawn"] != before["drawn"]


def test_a_worker_has_what_an_order_gives_it_and_nothing_of_its_server(warm, tmp_path):
    found = do(warm, tmp_path, "").found
    assert found["variables"].keys() - {"LC_CTYPE"} == {"PATH", "PYTHONPATH", "HOME", INVOCATION_VARIABLE}
    assert found["variables"][INVOCATION_VARIABLE] != TOKEN


def test_a_worker_and_what_it_forks_are_found_by_its_own_token(warm, tmp_path):
    seen = []

    def look(found, token, cancel):
        seen.append(found["pid"] in find_survivors(token) and found["pid"] not in find_survivors(TOKEN))
        cancel.set()

    do(warm, tmp_path, "hang", during=look)
    assert seen == [True]


def test_a_fork_that_left_its_session_goes_with_its_worker(warm, tmp_path):
    left = do(warm, tmp_path, "leave")
    token = left.found["variables"][INVOCATION_VARIABLE]
    assert left.exit.exit_code == 0
    assert find_survivors(token) == []


def test_a_worker_is_stopped_at_its_deadline_and_is_the_last_of_its_kind(warm, tmp_path):
    late = do(warm, tmp_path, "hang", during=lambda found, token, cancel: cancel.set())
    assert late.exit.ending is Ending.CANCELLED
    assert late.exit.exit_code == -signal.SIGTERM
    assert do(warm, tmp_path, "").exit is None


def test_after_a_worker_that_failed_there_is_none(warm, tmp_path):
    assert do(warm, tmp_path, "fail").exit.exit_code == 5
    assert do(warm, tmp_path, "").exit is None


def test_a_worker_whose_server_is_killed_ends_and_is_the_last_of_its_kind(warm, tmp_path):
    def kill(found, token, cancel):
        for pid in find_survivors(TOKEN):
            os.kill(pid, signal.SIGKILL)

    lost = do(warm, tmp_path, "hang", during=kill)
    assert lost.exit.exit_code == -signal.SIGKILL
    assert lost.exit.ending is Ending.EXITED
    assert find_survivors(lost.found["variables"][INVOCATION_VARIABLE]) == []
    assert do(warm, tmp_path, "").exit is None


def test_where_an_import_starts_a_thread_there_is_no_worker_and_a_reason(warm, tmp_path):
    refused = do(warm, tmp_path, "", modules=(WORKER, "tests.support.starts_a_thread"))
    assert refused.exit is None
    assert "has started 1 thread(s)" in refused.log


def test_what_cannot_be_imported_is_left_to_the_worker(warm, tmp_path):
    assert do(warm, tmp_path, "", modules=("tests.support.not_there", WORKER)).exit.exit_code == 0


def test_a_second_worker_at_a_time_is_not_of_the_same_server(warm, tmp_path):
    others = []

    def ask(found, token, cancel):
        others.append(do(warm, tmp_path, "").exit)
        cancel.set()

    do(warm, tmp_path, "hang", during=ask)
    assert others == [None]


def test_what_is_stopped_while_imports_go_on_gets_no_worker(tmp_path):
    cancel = threading.Event()
    cancel.set()
    order = Order(modules=(WORKER,), variables=variables(TOKEN), folder=tmp_path, mark=INVOCATION_VARIABLE)
    with ExitStack() as stack:
        one = stack.enter_context(server(tmp_path))
        stdin = stack.enter_context(Path(os.devnull).open("rb"))
        with pytest.raises(NoWorker):
            one.worker(order, stdin, Watch(Limits(), cancel, Heard()))
    assert find_survivors(TOKEN) == []


ORCHESTRATOR = """
import sys, threading
from pathlib import Path
from tests.runtime import test_warm_workers as tests

with tests.WarmServer([sys.executable, "-m", "harness.warm"], tests.variables(tests.TOKEN), Path(sys.argv[1])) as one:
    order = tests.Order(
        modules=(tests.WORKER,),
        variables=tests.variables("1" * 32),
        folder=sys.argv[1],
        mark=tests.INVOCATION_VARIABLE,
    )
    Path(sys.argv[1], "stdin").write_text("hang")
    with Path(sys.argv[1], "stdin").open("rb") as stdin:
        worker = one.worker(order, stdin, tests.Watch(tests.Limits(), threading.Event(), tests.Heard()))
    print(worker.pipes[0].readline() and "running", flush=True)
    threading.Event().wait()
"""


def test_server_and_worker_end_when_their_orchestrator_is_killed(tmp_path):
    command = [sys.executable, "-c", ORCHESTRATOR, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT, text=True) as other:
        assert other.stdout.readline() == "running\n"
        assert find_survivors(TOKEN) != []
        assert find_survivors("1" * 32) != []
        other.kill()
    end = time.monotonic() + PATIENCE_SECONDS
    while (find_survivors(TOKEN) or find_survivors("1" * 32)) and time.monotonic() < end:
        time.sleep(0.05)
    assert find_survivors(TOKEN) == []
    assert find_survivors("1" * 32) == []
