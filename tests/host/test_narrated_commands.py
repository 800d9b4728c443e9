"""Commands that take minutes say what they are at, and lose nothing of what they print."""

import subprocess
import sys

import pytest

from orchestrator.host import narrated
from orchestrator.host.narrated import run_narrated

SLOW = """
import sys
print("#7 [2/3] RUN pip install torch", file=sys.stderr, flush=True)
print("out", flush=True)
sys.stdin.read()
while True:
    pass
"""


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_long_command_is_told_of_by_the_last_that_it_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrated, "SECONDS_BETWEEN_LINES", 0.05)
    said: list[str] = []

    class Enough(Exception):
        """The line has come."""

    def say(line: str) -> None:
        said.append(line)
        raise Enough

    with pytest.raises(Enough):
        run_narrated(python(SLOW), "building", say)
    assert said[0].startswith("building: ")
    assert said[0].endswith(" s so far, now at: [2/3] RUN pip install torch")


def test_what_a_command_prints_is_all_there_apart_or_together() -> None:
    text = "import sys; print('o' * 200000); print('e' * 200000, file=sys.stderr); sys.exit(3)"
    apart = run_narrated(python(text), "x", None)
    assert (apart.returncode, len(apart.stdout), len(apart.stderr)) == (3, 200001, 200001)
    together = run_narrated(python(text), "x", None, merged=True)
    assert (len(together.stdout), together.stderr) == (400002, "")


def test_a_command_that_is_too_late_is_killed() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_narrated(python("import time; time.sleep(600)"), "x", None, timeout_seconds=0.1)
