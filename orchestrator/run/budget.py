"""A time after which a run is stopped as Ctrl-C would, so that what was finished is kept."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def watched(seconds: float | None, cancel: threading.Event) -> Iterator[threading.Event]:
    """Gives an event that is set, and `cancel` with it, when the time is up; never where `seconds` is None."""
    is_spent = threading.Event()

    def stop() -> None:
        is_spent.set()
        cancel.set()

    timer = threading.Timer(seconds or 0.0, stop)
    timer.daemon = True
    if seconds is not None:
        timer.start()
    try:
        yield is_spent
    finally:
        timer.cancel()
