"""What a worker printed just before it ended is read, however late its end is noticed."""

import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.runtime import supervision
from orchestrator.runtime.launch import Watch
from orchestrator.runtime.stream import TextLog
from orchestrator.stages import Limits

LINES = 2000


def test_output_that_nobody_had_read_when_the_worker_ended_is_all_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_for_the_end(worker: supervision.StartedWorker) -> bool:
        return os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT) is not None

    monkeypatch.setattr(supervision.StartedWorker, "has_ended", wait_for_the_end)
    printed = bytearray()
    command = [sys.executable, "-c", f"print('a line of twenty byte\\n' * {LINES}, end='')"]
    listener = SimpleNamespace(feed=printed.extend, is_broken=False, has_answered=False)
    with (tmp_path / "stderr").open("w+b") as nothing:
        watch = Watch(Limits(), threading.Event(), listener)
        outlets = supervision.Outlets(listener, TextLog(nothing))
        worker = supervision.StartedWorker(command, dict(os.environ), tmp_path, nothing)
        ended = supervision.supervise(worker, outlets, watch)
    assert ended.exit_code == 0
    assert printed == b"a line of twenty byte\n" * LINES
