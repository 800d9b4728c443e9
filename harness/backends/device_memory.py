"""Peak memory of libraries that allocate by themselves, beside torch's allocator or without it."""

import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

import torch

from harness.contract import Memory
from harness.telemetry import PeakMemory

_SAMPLE_SECONDS = 0.05


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


def peaks_of_everything(device: torch.device) -> Callable[[], PeakOfEverything]:
    """Blocks that all count from what a GPU's driver has given out now, which is before an engine loads."""
    return partial(PeakOfEverything, device, _used_bytes(device) if device.type == "cuda" else 0)


def _used_bytes(device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return total - free
