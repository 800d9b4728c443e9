"""What NVML says of a GPU while work runs on it: clocks, power, throttling, energy.

A thread asks about 20 times a second. Asking takes the interpreter and the driver for a moment, so it is done while the
timed work is repeated once more, untimed. Not covered: GPUs of other makers, and the counters of several GPUs at once,
of which the memory alone is told.
"""

import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.contract import VISIBLE_GPUS, DeviceTelemetry, Extent
from harness.errors import WorkerError
from harness.physics import hold_energy

if TYPE_CHECKING:
    import torch

_SAMPLE_SECONDS = 0.05
_REASON_PREFIX = "nvmlClocksThrottleReason"
_NO_REASONS = ("None", "All")


@dataclass(frozen=True)
class DeviceMemory:
    """What is in use on a GPU at an instant, and what is free."""

    used_bytes: int
    free_bytes: int


def watch(gpus: Sequence[str], work: Callable[[], int]) -> tuple[DeviceTelemetry | None, str | None]:
    """Sample the GPU that is named while `work` runs, which returns how many tokens it generated.

    Where nothing can be sampled, `work` is not run, and the reason is returned instead.
    """
    if not gpus:
        return None, "computed on the CPU, which has no such counters"
    if len(gpus) > 1:
        return None, f"{len(gpus)} GPUs share the model, and the counters of one are not those of all"
    uuid = gpus[0]
    try:
        import pynvml
    except ImportError:
        return None, "nvidia-ml-py is not installed in this image"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as failure:
        return None, f"NVML does not start: {failure}"
    try:
        try:
            driver = _text(pynvml.nvmlSystemGetDriverVersion())
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as failure:
            return None, f"NVML does not know GPU {uuid}: {failure}"
        return _watch(_Gpu(pynvml, handle, uuid), driver, work), None
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def gpu_uuids(device: "torch.device", gpus: int = 1) -> tuple[str, ...]:
    """How NVML names the first `gpus` CUDA devices of this process; none for a CPU.

    torch does not tell a part of a GPU by its own name.
    """
    if device.type != "cuda":
        return ()
    visible = os.environ.get(VISIBLE_GPUS, "")
    if visible.startswith("MIG-"):
        return tuple(visible.split(",")[:gpus])
    import torch

    found = (str(torch.cuda.get_device_properties(place).uuid) for place in range(gpus))
    return tuple(f"GPU-{uuid.removeprefix('GPU-')}" for uuid in found)


def memory_of(uuids: Sequence[str]) -> tuple[DeviceMemory, ...]:
    """The memory of each GPU as its driver counts it, whoever holds it. Nothing is put onto a GPU for asking.

    Raises:
        WorkerError: NVML does not answer for one of them.
    """
    try:
        import pynvml
    except ImportError as absent:
        raise WorkerError(
            f"the memory of {len(uuids)} GPUs cannot be measured: {absent}", hint="install nvidia-ml-py in this image"
        ) from absent
    try:
        pynvml.nvmlInit()
        try:
            told = [pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid)) for uuid in uuids]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as failure:
        raise WorkerError(
            f"the memory of {len(uuids)} GPUs cannot be measured: NVML says {failure}",
            hint="check `nvidia-smi`; one GPU is measured without it",
        ) from failure
    return tuple(DeviceMemory(used_bytes=int(one.used), free_bytes=int(one.free)) for one in told)


@dataclass(frozen=True)
class _Sample:
    """One moment; None where the GPU does not say."""

    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    power_milliwatts: int | None
    temperature_celsius: int | None
    memory_used_bytes: int | None
    throttle_bits: int | None


class _Gpu:
    """One device's counters. What it refuses once is remembered in `absent` with NVML's words, and asked no more."""

    def __init__(self, nvml: ModuleType, handle: Any, uuid: str) -> None:
        self.nvml: Any = nvml
        self.uuid = uuid
        self.absent: dict[str, str] = {}
        self._handle = handle

    def ask(self, name: str, function: str, *arguments: Any) -> Any:
        if name in self.absent:
            return None
        try:
            return getattr(self.nvml, function)(self._handle, *arguments)
        except self.nvml.NVMLError as refused:
            self.absent[name] = str(refused)
            return None

    def sample(self) -> _Sample:
        memory = self.ask("memory_used_bytes", "nvmlDeviceGetMemoryInfo")
        return _Sample(
            sm_clock_mhz=self.ask("sm_clock_mhz", "nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self.ask("memory_clock_mhz", "nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_MEM),
            power_milliwatts=self.ask("power_watts", "nvmlDeviceGetPowerUsage"),
            temperature_celsius=self.ask(
                "temperature_celsius", "nvmlDeviceGetTemperature", self.nvml.NVML_TEMPERATURE_GPU
            ),
            memory_used_bytes=None if memory is None else int(memory.used),
            throttle_bits=self.ask("throttle_reasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
        )

    def energy_millijoules(self) -> int | None:
        counted = self.ask("energy_joules_per_token", "nvmlDeviceGetTotalEnergyConsumption")
        return None if counted is None else int(counted)

    def power_limit_watts(self) -> float | None:
        limit = self.ask("power_limit_watts", "nvmlDeviceGetEnforcedPowerLimit")
        return None if limit is None else int(limit) / 1000

    def ecc_enabled(self) -> bool | None:
        modes = self.ask("ecc_enabled", "nvmlDeviceGetEccMode")
        return None if modes is None else modes[0] == self.nvml.NVML_FEATURE_ENABLED

    def other_processes(self) -> int | None:
        """All but this one, whose number in a container is not the one that the driver knows."""
        running = self.ask("other_processes", "nvmlDeviceGetComputeRunningProcesses")
        return None if running is None else max(len(running) - 1, 0)

    def throttle_reasons(self, samples: Iterable[_Sample]) -> dict[str, int]:
        names = {
            value: name.removeprefix(_REASON_PREFIX)
            for name, value in vars(self.nvml).items()
            if name.startswith(_REASON_PREFIX) and name.removeprefix(_REASON_PREFIX) not in _NO_REASONS
        }
        counts = Counter(
            name
            for one in samples
            for bit, name in names.items()
            if one.throttle_bits is not None and one.throttle_bits & bit
        )
        return dict(sorted(counts.items()))


class _Sampler(threading.Thread):
    """Takes the first sample at once and the last one when it is stopped."""

    def __init__(self, gpu: _Gpu) -> None:
        super().__init__(name="gpu-sampler", daemon=True)
        self.samples: list[_Sample] = []
        self._gpu = gpu
        self._stopped = threading.Event()

    def run(self) -> None:
        while True:
            self.samples.append(self._gpu.sample())
            if self._stopped.wait(_SAMPLE_SECONDS):
                return

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def _watch(gpu: _Gpu, driver: str, work: Callable[[], int]) -> DeviceTelemetry:
    sampler = _Sampler(gpu)
    energy_before, begin = gpu.energy_millijoules(), time.perf_counter()
    sampler.start()
    try:
        tokens = work()
    finally:
        sampler.stop()
    seconds, energy_after = time.perf_counter() - begin, gpu.energy_millijoules()
    samples = sampler.samples
    power = _extent(one.power_milliwatts for one in samples)
    joules = _joules(energy_before, energy_after)
    limit, least = gpu.power_limit_watts(), None if power is None else power.minimum * 1e-3
    return DeviceTelemetry(
        driver=driver,
        device_uuid=gpu.uuid,
        samples=len(samples),
        seconds=seconds,
        sm_clock_mhz=_extent(one.sm_clock_mhz for one in samples),
        memory_clock_mhz=_extent(one.memory_clock_mhz for one in samples),
        power_watts=None if power is None else _scaled(power, 1e-3),
        temperature_celsius=_extent(one.temperature_celsius for one in samples),
        memory_used_bytes=max(
            (one.memory_used_bytes for one in samples if one.memory_used_bytes is not None), default=None
        ),
        throttle_reasons=gpu.throttle_reasons(samples),
        other_processes=gpu.other_processes(),
        ecc_enabled=gpu.ecc_enabled(),
        energy_joules_per_token=None if joules is None else joules / tokens,
        energy_joules=joules,
        power_limit_watts=limit,
        bounds=() if joules is None else hold_energy(joules, seconds, limit_watts=limit, idle_watts=least),
        absent=gpu.absent,
    )


def _extent(readings: Iterable[int | None]) -> Extent | None:
    known = [one for one in readings if one is not None]
    if not known:
        return None
    return Extent(minimum=min(known), median=statistics.median(known), maximum=max(known))


def _scaled(extent: Extent, factor: float) -> Extent:
    return Extent(minimum=extent.minimum * factor, median=extent.median * factor, maximum=extent.maximum * factor)


def _joules(before_millijoules: int | None, after_millijoules: int | None) -> float | None:
    if before_millijoules is None or after_millijoules is None:
        return None
    return (after_millijoules - before_millijoules) / 1000


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
