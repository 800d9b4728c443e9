"""Commands that may take minutes: run to their end, with a line now and then of what they are at."""

import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

Say = Callable[[str], None]

SECONDS_BETWEEN_LINES = 20.0
_MOST_LETTERS = 110
_STEP = re.compile(r"^#\d+ (?:\d+\.\d+ )?")
"""BuildKit's number of a step, and the seconds since it began."""


def run_narrated(
    arguments: Sequence[str],
    what: str,
    say: Say | None,
    *,
    environment: Mapping[str, str] | None = None,
    merged: bool = False,
    timeout_seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command. While it runs `say` is told, every `SECONDS_BETWEEN_LINES`, what it printed last.

    Told is what it writes to stderr, or with `merged` to either, which then is in `stdout`. Nothing it starts outlives
    an interruption of this.

    Raises:
        subprocess.TimeoutExpired: it was not done in time, and was killed.
        OSError: it cannot be started.
    """
    begin = time.monotonic()
    with subprocess.Popen(  # noqa: S603  a list of arguments of our own
        arguments,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        out, told = _Lines(process.stdout), process.stderr
        err = out if told is None else _Lines(told)
        try:
            while process.poll() is None:
                left = None if timeout_seconds is None else begin + timeout_seconds - time.monotonic()
                try:
                    process.wait(SECONDS_BETWEEN_LINES if left is None else max(0.0, min(SECONDS_BETWEEN_LINES, left)))
                except subprocess.TimeoutExpired:
                    if left is not None and left <= SECONDS_BETWEEN_LINES:
                        raise
                    if say is not None and err.last:
                        say(f"{what}: {time.monotonic() - begin:.0f} s so far, now at: {err.last}")
        except BaseException:
            process.kill()
            raise
        text, errors = out.text(), "" if err is out else err.text()
    return subprocess.CompletedProcess(list(arguments), process.returncode, text, errors)


class _Lines:
    """Reads a stream on a thread of its own, so that no full pipe holds the command up."""

    def __init__(self, stream: IO[str]) -> None:
        self.last = ""
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.append(line)
            shown = "".join(letter for letter in _STEP.sub("", line).strip() if letter.isprintable())
            self.last = shown[:_MOST_LETTERS] or self.last

    def text(self) -> str:
        """All of it, once it has ended."""
        self._thread.join()
        return "".join(self._lines)
