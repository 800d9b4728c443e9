"""A file that somebody was writing when they were killed goes; one that somebody is writing stays."""

import multiprocessing
import os
import signal
from pathlib import Path
from unittest import mock

from orchestrator.host.files import sweep_unfinished, write_atomically


def kill_while_writing(path: Path) -> None:
    def die() -> None:
        with mock.patch("os.fsync", lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)):
            write_atomically(path, "half")

    writer = multiprocessing.get_context("fork").Process(target=die)
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL


def test_what_a_dead_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    below = tmp_path / "runs" / "one.run"
    below.mkdir(parents=True)
    write_atomically(below / "run.json", "whole")
    kill_while_writing(below / "run.json")
    others = [below / name for name in (".mine.tmp", ".run.json.00000000-1-1-0123abcd.tmp", ".tmp", "a.tmp")]
    for path in others:
        path.touch()
    assert len(list(below.iterdir())) == 2 + len(others)
    sweep_unfinished(tmp_path)
    assert sorted(below.iterdir()) == sorted([below / "run.json", *others])
    assert (below / "run.json").read_text("utf-8") == "whole"


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with mock.patch("os.fsync", lambda descriptor: sweep_unfinished(tmp_path)):
        write_atomically(path, "whole")
    assert path.read_text("utf-8") == "whole"
