"""Which devices this host has, and which one a run uses. Every automatic choice comes with its reason."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.contract import Device, DeviceKind, cpu_model
from orchestrator.errors import BadManifest

_ALL_GPUS = "cuda:all"
_PLACE = re.compile(r"cuda:(\d+)")


@dataclass(frozen=True)
class Gpu:
    uuid: str
    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True)
class ChosenDevice:
    """`model` is the processor's or the GPUs' name: results of different models are different measurements.

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
    """The NVIDIA GPUs that the driver reports, a divided one by its parts (MIG); none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        whole = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        handles = [part for handle in whole for part in _parts(handle)]
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


def _parts(handle: Any) -> list[Any]:
    """The parts of a GPU that is divided, none of which is the whole; or the GPU itself."""
    import pynvml

    try:
        divided = pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    except pynvml.NVMLError:
        divided = False
    if not divided:
        return [handle]
    parts = []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(pynvml.NVMLError_NotFound):
            parts.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
    return parts


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
    """Resolve `auto`, `cpu`, `cuda`, `cuda:all`, or one or several GPUs with commas between them.

    Each is named by its UUID, or as `cuda:1` by its place among those that the driver reports, from 0.

    Raises:
        BadManifest: a device does not exist here, is named twice, or the GPUs are not of one model.
    """
    if requested == "cpu":
        return _cpu("asked for")
    gpus = find_gpus()
    if requested == "auto":
        return _gpu(gpus[0], "the first GPU that the driver reports") if gpus else _cpu("no NVIDIA GPU here")
    if requested in ("cuda", _ALL_GPUS):
        if not gpus:
            why = why_no_gpu()
            raise BadManifest(
                f"device {requested!r} is asked for, but {why.message}",
                hint=f"use the device 'cpu' (DEVICE=cpu), or {why.hint}",
            )
        return _gpu(gpus[0], "asked for") if requested == "cuda" else _several(gpus, "all GPUs are asked for")
    return _several([_named(name.strip(), gpus) for name in requested.split(",")], "asked for by name")


def _named(name: str, gpus: Sequence[Gpu]) -> Gpu:
    for gpu in gpus:
        if gpu.uuid == name:
            return gpu
    if (place := _PLACE.fullmatch(name)) and int(place[1]) < len(gpus):
        return gpus[int(place[1])]
    known = ", ".join(["auto", "cpu", "cuda", _ALL_GPUS, *(gpu.uuid for gpu in gpus)])
    raise BadManifest(
        f"unknown device {name!r}", hint=f"use one of these, or several with commas between them: {known}"
    )


def _cpu(reason: str) -> ChosenDevice:
    threads = len(os.sched_getaffinity(0))
    return ChosenDevice(
        Device(kind=DeviceKind.CPU, threads=threads), f"{cpu_model()} ({threads} threads)", f"cpu: {reason}"
    )


def _gpu(gpu: Gpu, reason: str) -> ChosenDevice:
    return ChosenDevice(
        Device(kind=DeviceKind.CUDA, uuids=(gpu.uuid,)), gpu.name, f"{gpu.name} ({gpu.uuid}): {reason}", gpu.driver
    )


def _several(gpus: Sequence[Gpu], reason: str) -> ChosenDevice:
    if len(gpus) == 1:
        return _gpu(gpus[0], reason)
    uuids = tuple(gpu.uuid for gpu in gpus)
    if len(set(uuids)) < len(uuids):
        raise BadManifest("a GPU is named twice", hint="name each GPU once; `evaluate.processes` puts several on one")
    if len({gpu.name for gpu in gpus}) > 1:
        raise BadManifest(
            f"the GPUs are not of one model: {', '.join(f'{gpu.uuid} is a {gpu.name}' for gpu in gpus)}",
            hint="name GPUs of one model, since a result is kept under its device's model",
        )
    device = Device(kind=DeviceKind.CUDA, uuids=uuids)
    shared = f"{len(gpus)} x {gpus[0].name}, evaluations on all of them, all else on {uuids[0]}: {reason}"
    return ChosenDevice(device, gpus[0].name, shared, gpus[0].driver)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
