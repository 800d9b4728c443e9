"""Clocks and peak memory, as seen from inside the worker.

Covered: the peak of one block of work, wall time with the device drained. A GPU's own counters (device-level memory,
energy, clocks) are in `harness.device_telemetry`.
"""

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from harness.contract import Memory

if TYPE_CHECKING:
    import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_SAMPLE_SECONDS = 0.01
_RESET_SLACK_BYTES = 16 * 2**20
_SHARED_POOL = (0, 0)
"""How torch's allocator names the pool of everything that is allocated outside of captures."""


def synchronize(device: "torch.device") -> None:
    """Wait until `device` has finished what was queued on it. A CPU never has anything queued."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


class Stopwatch:
    """Wall time of a `with` block in `seconds`, with the device drained at both ends."""

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        self._begin = 0.0
        self.seconds = 0.0

    def __enter__(self) -> Self:
        synchronize(self._device)
        self._begin = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            synchronize(self._device)
        self.seconds = time.perf_counter() - self._begin


class PeakMemory:
    """Peak memory during a `with` block, in `memory` once the block has ended.

    On CUDA the bytes that torch's allocator had given out, and those that CUDA graphs captured before the block keep
    for their replays, which ask no allocator (`cuda-allocator`). On a CPU the resident memory of the whole process,
    from the kernel's own high-water mark (`peak-rss`), or sampled every 10 ms where that mark cannot be reset
    (`peak-rss-sampled-10ms`). Blocks do not nest, since each resets the mark.
    """

    _active = False

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        self._sampler: _RssSampler | None = None
        self._kept_by_graphs_bytes = 0
        self.memory = Memory(peak_memory_bytes=0, method="not-measured")

    def __enter__(self) -> Self:
        if PeakMemory._active:
            raise RuntimeError("PeakMemory blocks do not nest: the inner one would reset the outer one's mark")
        PeakMemory._active = True
        if self._device.type == "cuda":
            import torch

            torch.cuda.init()  # type: ignore[no-untyped-call]  # there is no mark to reset before
            self._kept_by_graphs_bytes = _kept_by_graphs_bytes(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        elif not reset_high_water_mark():
            self._sampler = _RssSampler()
            self._sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        PeakMemory._active = False
        if self._device.type == "cuda":
            import torch

            peak = int(torch.cuda.max_memory_allocated(self._device)) + self._kept_by_graphs_bytes
            self.memory = Memory(peak_memory_bytes=peak, method="cuda-allocator")
        elif self._sampler is not None:
            self.memory = Memory(peak_memory_bytes=self._sampler.stop(), method="peak-rss-sampled-10ms")
        else:
            self.memory = Memory(peak_memory_bytes=_status_bytes("VmHWM"), method="peak-rss")


class _RssSampler(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="rss-sampler", daemon=True)
        self._stopped = threading.Event()
        self._peak_bytes = _status_bytes("VmRSS")

    def run(self) -> None:
        while not self._stopped.wait(_SAMPLE_SECONDS):
            self._peak_bytes = max(self._peak_bytes, _status_bytes("VmRSS"))

    def stop(self) -> int:
        self._stopped.set()
        self.join()
        return max(self._peak_bytes, _status_bytes("VmRSS"))


def _kept_by_graphs_bytes(device: "torch.device") -> int:
    """What private pools of CUDA graphs hold beyond the tensors in them, which the allocator counts as given out."""
    import torch

    number = torch.cuda.current_device() if device.index is None else device.index
    segments: list[dict[str, Any]] = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    private = [one for one in segments if one["device"] == number and tuple(one["segment_pool_id"]) != _SHARED_POOL]
    return sum(int(one["total_size"]) - int(one["allocated_size"]) for one in private)


def resident_bytes() -> int:
    """This process's resident memory now."""
    return _status_bytes("VmRSS")


def reset_high_water_mark() -> bool:
    """Set VmHWM to the present VmRSS; False where the kernel does not allow it or does not do it."""
    try:
        _CLEAR_REFS.write_text("5", encoding="ascii")
        return _status_bytes("VmHWM") <= _status_bytes("VmRSS") + _RESET_SLACK_BYTES
    except (OSError, KeyError):
        return False


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)
