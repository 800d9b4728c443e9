"""Peak memory of libraries that allocate by themselves, beside torch's allocator or without it."""

import threading
from types import TracebackType
from typing import Self

import torch

from harness.contract import Memory
from harness.telemetry import PeakMemory

_SAMPLE_SECONDS = 0.05


class PeakOfEverything:
    """Peak memory during a `with` block, in `memory` once it has ended.

    On a GPU what its driver has given out beyond what it had at the beginning, whoever asked for it, sampled
    (`cuda-device-sampled-50ms`): so another process that starts meanwhile counts as well, and this process's own CUDA
    context does not. On a CPU that of `PeakMemory`.
    """

    def __init__(self, device: torch.device) -> None:
        self.memory = Memory(peak_memory_bytes=0, method="not-measured")
        self._device = device
        self._host = PeakMemory(device) if device.type != "cuda" else None
        self._stopped = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="device-memory-sampler", daemon=True)
        self._before_bytes = self._peak_bytes = 0

    def __enter__(self) -> Self:
        if self._host is not None:
            self._host.__enter__()
        else:
            self._before_bytes = self._peak_bytes = self._used_bytes()
            self._sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._host is not None:
            self._host.__exit__(kind, error, at)
            self.memory = self._host.memory
            return
        self._stopped.set()
        self._sampler.join()
        peak_bytes = max(self._peak_bytes - self._before_bytes, 0)
        self.memory = Memory(peak_memory_bytes=peak_bytes, method="cuda-device-sampled-50ms")

    def _sample(self) -> None:
        while True:
            self._peak_bytes = max(self._peak_bytes, self._used_bytes())
            if self._stopped.wait(_SAMPLE_SECONDS):
                return

    def _used_bytes(self) -> int:
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free
