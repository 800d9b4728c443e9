"""Peak memory of an engine, apart for getting ready and for serving: compiling and measuring are no part of serving.

Also that of libraries that allocate by themselves, beside torch's allocator or without it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Protocol, Self

import torch

from harness.contract import Memory
from harness.device_telemetry import memory_of
from harness.errors import WorkerError
from harness.telemetry import PeakMemory

_SAMPLE_SECONDS = 0.05


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


class PeakOfEverything:
    """Peak memory during a `with` block, in `memory` once it has ended.

    On a GPU what its driver has given out beyond `before_bytes`, whoever asked for it, sampled
    (`cuda-device-sampled-50ms`): so another process that starts meanwhile counts as well, and this process's own CUDA
    context does not, if it was there before. On a CPU that of `PeakMemory`.
    """

    def __init__(self, device: torch.device, before_bytes: int) -> None:
        self.memory = Memory(peak_memory_bytes=0, method="not-measured")
        self._device = device
        self._host = PeakMemory(device) if device.type != "cuda" else None
        self._stopped = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="device-memory-sampler", daemon=True)
        self._before_bytes = before_bytes
        self._peak_bytes = 0

    def __enter__(self) -> Self:
        if self._host is not None:
            self._host.__enter__()
        else:
            self._peak_bytes = _used_bytes(self._device)
            self._sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._host is not None:
            self._host.__exit__(kind, error, at)
            self.memory = self._host.memory
            return
        self._stopped.set()
        self._sampler.join()
        peak_bytes = max(self._peak_bytes, _used_bytes(self._device)) - self._before_bytes
        self.memory = Memory(peak_memory_bytes=max(peak_bytes, 0), method="cuda-device-sampled-50ms")

    def _sample(self) -> None:
        while True:
            self._peak_bytes = max(self._peak_bytes, _used_bytes(self._device))
            if self._stopped.wait(_SAMPLE_SECONDS):
                return


class PeakOfDevices:
    """Peak memory of several GPUs during a `with` block, in `memory` once it has ended: of their sum, and of each.

    It is what their drivers have given out beyond `before_bytes`, whoever asked for it, sampled
    (`cuda-devices-sampled-50ms`): what an engine's processes hold is not this process's to count otherwise.
    """

    def __init__(self, uuids: Sequence[str], before_bytes: Sequence[int]) -> None:
        self.memory = Memory(peak_memory_bytes=0, method="not-measured")
        self._uuids = uuids
        self._before_bytes = before_bytes
        self._each = [0] * len(uuids)
        self._sum = 0
        self._stopped = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="devices-memory-sampler", daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._sampler.join()
        self._look()
        self.memory = Memory(
            peak_memory_bytes=self._sum, method="cuda-devices-sampled-50ms", per_device_bytes=tuple(self._each)
        )

    def _sample(self) -> None:
        while not self._stopped.wait(_SAMPLE_SECONDS):
            with suppress(WorkerError):  # `__exit__` asks once more, and raises
                self._look()

    def _look(self) -> None:
        used = [one.used_bytes for one in memory_of(self._uuids)]
        held = [max(now - before, 0) for now, before in zip(used, self._before_bytes, strict=True)]
        self._each = [max(*pair) for pair in zip(self._each, held, strict=True)]
        self._sum = max(self._sum, sum(held))


def peaks_of_devices(uuids: Sequence[str]) -> Callable[[], PeakOfDevices]:
    """Blocks that all count from what the GPUs' drivers have given out now, which is before an engine loads."""
    return partial(PeakOfDevices, uuids, [one.used_bytes for one in memory_of(uuids)])


def peaks_of_everything(device: torch.device) -> Callable[[], PeakOfEverything]:
    """Blocks that all count from what a GPU's driver has given out now, which is before an engine loads."""
    return partial(PeakOfEverything, device, _used_bytes(device) if device.type == "cuda" else 0)


def _used_bytes(device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return total - free
