"""Peak memory of an engine, apart for getting ready and for serving: compiling and measuring are no part of serving."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from harness.contract import Memory


class PeakBlock(Protocol):
    """One measured stretch: `harness.telemetry.PeakMemory`, or another with its interface."""

    memory: Memory

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class ServingPeak:
    """Peaks within a `with` block that holds an engine, which gets ready except where `serving` says otherwise.

    `open_block` makes what measures one stretch. What an engine keeps from getting ready (weights, reserved keys and
    values, captured graphs) is there while it serves, and so in both peaks.
    """

    def __init__(self, open_block: Callable[[], PeakBlock]) -> None:
        self._open_block = open_block
        self._current: PeakBlock | None = None
        self._ready: list[Memory] = []
        self._served: list[Memory] = []

    @property
    def memory(self) -> Memory:
        """The peak while serving; of everything where nothing was served."""
        measured = self._served or self._ready
        if not measured:
            raise RuntimeError("no stretch has been measured yet")
        return max(measured, key=lambda one: one.peak_memory_bytes)

    @property
    def start_up_bytes(self) -> int | None:
        """The peak before serving, or between two times of it; None where nothing of either was measured."""
        if not self._served or not self._ready:
            return None
        return max(one.peak_memory_bytes for one in self._ready)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """What is done within counts as serving. The engine is ready for it: nothing is compiled here any more."""
        getting_ready = self._close()
        if getting_ready is not None:
            self._ready.append(getting_ready)
        with self._open_block() as block:
            yield
        self._served.append(block.memory)
        if getting_ready is not None:
            self._open()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        last = self._close()
        if last is not None and not self._served:
            self._ready.append(last)

    def _open(self) -> None:
        self._current = self._open_block().__enter__()

    def _close(self) -> Memory | None:
        block, self._current = self._current, None
        if block is None:
            return None
        block.__exit__(None, None, None)
        return block.memory
