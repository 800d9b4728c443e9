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
    """`model` is the processor's or the GPU's name: results of different models are different measurements."""

    device: Device
    model: str
    reason: str


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
            raise BadManifest("device 'cuda' is asked for, but no NVIDIA GPU answers", hint="use DEVICE=cpu")
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
    return ChosenDevice(Device(kind=DeviceKind.CUDA, uuids=(gpu.uuid,)), gpu.name, f"{gpu.name} ({gpu.uuid}): {reason}")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
