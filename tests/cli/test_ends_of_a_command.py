"""However a command ends, it ends with its status and one sentence: while it is imported, at work, and at its end."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import CommandExit

PROJECT = Path(__file__).parents[2]
COMMAND = """
import errno, os, signal, sys, time, types

def app(**how):
{body}

class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == "orchestrator.cli.app":
            {importing}
            made = types.ModuleType(name)
            made.app = app
            sys.modules[name] = made
            from importlib.machinery import ModuleSpec
            class Ready:
                def create_module(self, spec): return made
                def exec_module(self, module): pass
            return ModuleSpec(name, Ready())

sys.meta_path.insert(0, Importing())
from orchestrator.cli import main
main()
"""
IN_A_DESTRUCTOR = """
class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        sum(range(10**4))
Dying()
time.sleep(60)
"""
TWICE_IN_A_WAIT = """
import threading

condition = threading.Condition()
condition._acquire_restore = lambda saved: (signal.raise_signal(signal.SIGINT), sum(range(10**4)))
main_thread = threading.main_thread().ident
threading.Timer(0.05, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
with condition:
    condition.wait(60)
"""
AT_THE_END = """
import atexit
atexit.register(lambda: (signal.raise_signal(signal.SIGINT), sum(range(10**4))))
sys.exit(3)
"""


def end(body: str, importing: str = "pass", stdout: int = subprocess.DEVNULL) -> tuple[int, str]:
    """Status and stderr of a command whose work is `body`."""
    indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
    code = COMMAND.format(body=indented, importing=importing)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        check=False,
        preexec_fn=_heed,
    )
    return done.returncode, done.stderr


def _heed() -> None:
    """Undo what a shell does to its background jobs, which the tests may be one of."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interruption_while_the_program_is_imported(number: str) -> None:
    status, said = end("raise AssertionError", f"signal.raise_signal(signal.{number}); sum(range(10**4))")
    assert (status, said) == (130, "error: interrupted before anything was done\n")


@pytest.mark.parametrize(
    "body",
    [
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
        "raise KeyboardInterrupt",
        IN_A_DESTRUCTOR,
        TWICE_IN_A_WAIT,
    ],
)
def test_an_interruption_of_its_work(body: str) -> None:
    status, said = end(body)
    assert status == 130
    assert said.splitlines() == [
        "error: interrupted; what was finished is kept",
        "what to do: run the same command again to go on",
        CommandExit.INTERRUPTED.meaning,
    ]


def test_an_interruption_after_its_end_changes_nothing() -> None:
    assert end(AT_THE_END) == (3, "")


def test_what_whoever_started_it_has_it_ignore_is_ignored() -> None:
    status, _ = end("signal.raise_signal(signal.SIGHUP); time.sleep(0.01)")
    assert status == 130
    ignoring = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    code = COMMAND.format(body="    signal.raise_signal(signal.SIGHUP)", importing="pass")
    done = subprocess.run(
        [sys.executable, "-c", f"import signal; {ignoring}\n{code}"],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_disk_that_fails_outside_of_any_run() -> None:
    status, said = end("raise OSError(errno.EROFS, 'Read-only file system', 'reports')")
    assert status == 3
    assert said.startswith("error: a disk is read-only: [Errno 30] Read-only file system: 'reports'\nwhat to do: ")


def test_what_cannot_be_printed_is_said_once() -> None:
    with Path("/dev/full").open("w") as full:
        status, said = end("print('a report')", stdout=full.fileno())
    assert status == 3
    assert said.startswith("error: no space is left: ")
    assert len(said.splitlines()) == 3
