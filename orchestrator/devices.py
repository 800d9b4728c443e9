"""Which devices this host has, and which one a run uses. Every automatic choice comes with its reason."""

import os
from dataclasses import dataclass

from harness.contract import Device, DeviceKind, cpu_model
from orchestrator.errors import BadManifest


@dataclass(frozen=True)
class Gpu:
    uuid: str
    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True)
class ChosenDevice:
    """`model` is the processor's or the GPU's name: results of different models are different measurements.

    `driver` is the NVIDIA driver's version, None on a CPU.
    """

    device: Device
    model: str
    reason: str
    driver: str | None = None


@dataclass(frozen=True)
class NoGpu:
    """Why no GPU answers, and what to do where that is not what was meant."""

    message: str
    hint: str


def find_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that the driver reports; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            Gpu(
                uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
                name=_text(pynvml.nvmlDeviceGetName(handle)),
                memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                driver=driver,
            )
            for handle in handles
        )
    finally:
        pynvml.nvmlShutdown()


def why_no_gpu() -> NoGpu:
    """What NVML says where `find_gpus` finds none."""
    import pynvml

    known = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: NoGpu(
            "there is no NVIDIA driver (libnvidia-ml.so.1 is not found)",
            "install the driver; inside a container, start it with access to the GPUs",
        ),
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: NoGpu(
            "an NVIDIA driver is installed, but its kernel module is not loaded", "load it (modprobe nvidia) or reboot"
        ),
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: NoGpu(
            "the NVIDIA driver's library and its loaded kernel module are of different versions",
            "reboot, so that the kernel module of the new driver is loaded",
        ),
        pynvml.NVML_ERROR_NO_PERMISSION: NoGpu(
            "this user may not talk to the NVIDIA driver", "give the user access to /dev/nvidia*"
        ),
    }
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as failure:
        other = NoGpu(f"the NVIDIA driver does not answer: {failure}", "run nvidia-smi, which says more")
        return known.get(failure.value, other)
    pynvml.nvmlShutdown()
    return NoGpu("the NVIDIA driver answers, but reports no GPU", "check with nvidia-smi that a GPU is visible here")


def choose_device(requested: str) -> ChosenDevice:
    """Resolve `auto`, `cpu`, `cuda` or a GPU's UUID.

    Raises:
        BadManifest: the device does not exist here.
    """
    if requested == "cpu":
        return _cpu("asked for")
    gpus = find_gpus()
    if requested == "auto":
        return _gpu(gpus[0], "the first GPU that the driver reports") if gpus else _cpu("no NVIDIA GPU here")
    if requested == "cuda":
        if not gpus:
            why = why_no_gpu()
            raise BadManifest(
                f"device 'cuda' is asked for, but {why.message}",
                hint=f"use the device 'cpu' (DEVICE=cpu), or {why.hint}",
            )
        return _gpu(gpus[0], "asked for")
    for gpu in gpus:
        if gpu.uuid == requested:
            return _gpu(gpu, "asked for by UUID")
    known = ", ".join(["auto", "cpu", "cuda", *(gpu.uuid for gpu in gpus)])
    raise BadManifest(f"unknown device {requested!r}", hint=f"use one of: {known}")


def _cpu(reason: str) -> ChosenDevice:
    threads = len(os.sched_getaffinity(0))
    return ChosenDevice(
        Device(kind=DeviceKind.CPU, threads=threads), f"{cpu_model()} ({threads} threads)", f"cpu: {reason}"
    )


def _gpu(gpu: Gpu, reason: str) -> ChosenDevice:
    return ChosenDevice(
        Device(kind=DeviceKind.CUDA, uuids=(gpu.uuid,)), gpu.name, f"{gpu.name} ({gpu.uuid}): {reason}", gpu.driver
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
