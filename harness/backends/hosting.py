"""What every library that brings its own engine needs around it: environment variables, a bound on its start.

The engine runs in the worker's own process wherever the library allows it: its memory is the worker's, and nothing is
left behind when the worker is killed. If it dies in native code, so does the worker, and the orchestrator reports the
end of its stderr.
"""

import faulthandler
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from harness.errors import WorkerError

START_UP_SECONDS = 1800.0
_GRACE_SECONDS = 60.0
_STDERR = 2


@contextmanager
def variables_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a `with` block, and put the old ones back."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def start_up_deadline(library: str, seconds: float = START_UP_SECONDS) -> Iterator[None]:
    """Bound the time of a `with` block in the main thread.

    A minute later, where the block does not come back from native code to raise, the process ends itself with every
    thread's stack on stderr.

    Raises:
        WorkerError: the block was not done in time.
    """

    def give_up(number: int, frame: FrameType | None) -> None:
        raise WorkerError(
            f"{library} was not ready within {seconds:.0f} s, so its start was given up",
            hint="the stage's stderr.log shows how far it came; try a smaller model, or the CPU or GPU by itself",
        )

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, exit=True, file=_STDERR)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)
