"""Which devices this host has, and which one a run uses. Every automatic choice comes with its reason."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.contract import Device, DeviceKind, cpu_model
from orchestrator.errors import BadManifest

_ALL_GPUS = "cuda:all"
_PLACE = re.compile(r"cuda:(\d+)")
_MODEL = re.compile(r"cuda:[A-Za-z][\w-]*", re.ASCII)
_NOT_AVAILABLE = 2**63
"""NVML writes what it does not know as all ones."""


@dataclass(frozen=True)
class Gpu:
    """A whole GPU, or a part of a divided one (MIG); `part_of` is then the UUID of the whole.

    What the driver does not tell is None: of the memory, `no_memory` has its words.
    """

    uuid: str
    name: str
    memory_bytes: int | None
    driver: str | None
    part_of: str | None = None
    no_memory: str = ""

    @property
    def memory(self) -> str:
        """The memory in words, or why it is unknown."""
        if self.memory_bytes is None:
            return f"memory unknown (the driver does not tell: {self.no_memory})"
        return f"{self.memory_bytes / 2**30:.0f} GiB"


@dataclass(frozen=True)
class UnusableGpu:
    """One that the driver counts and nothing can run on. `place` is its number there, `uuid` empty where unknown."""

    place: int
    uuid: str
    why: str
    hint: str

    @property
    def message(self) -> str:
        return f"GPU {self.place} cannot be used: {self.why}"


@dataclass(frozen=True)
class ChosenDevice:
    """`model` is the processor's or the GPUs' name: results of different models are different measurements.

    `driver` is the NVIDIA driver's version, `memory_bytes` what each GPU has; None on a CPU and where it is not told.
    """

    device: Device
    model: str
    reason: str
    driver: str | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class NoGpu:
    """Why no GPU answers, and what to do where that is not what was meant."""

    message: str
    hint: str


def list_gpus() -> tuple[Gpu | UnusableGpu, ...]:
    """The NVIDIA GPUs that the driver counts, a divided one by its parts; none where there is no driver.

    Every single answer of the driver may be a refusal: a GPU without one is listed all the same, as far as it can be.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        count = pynvml.nvmlDeviceGetCount()
        return tuple(one for index in range(count) for one in _at(index, _driver()))
    except pynvml.NVMLError:
        return ()  # `why_no_gpu` has the words
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def find_gpus() -> tuple[Gpu, ...]:
    """Those of `list_gpus` that something can run on."""
    return tuple(one for one in list_gpus() if isinstance(one, Gpu))


def _at(place: int, driver: str | None) -> Iterator[Gpu | UnusableGpu]:
    """The GPU with that number: itself, its parts, or why it cannot be used."""
    import pynvml

    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(place)
    except pynvml.NVMLError as refused:
        yield _unusable(place, "", refused)
        return
    try:
        uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
        if not _is_divided(handle):
            yield _gpu_behind(handle, uuid, driver)
            return
    except pynvml.NVMLError as refused:
        yield _unusable(place, "", refused)
        return
    parts = list(_parts(place, handle, uuid, driver))
    yield from parts
    if not parts:
        yield UnusableGpu(
            place,
            uuid,
            "it is divided (MIG), and no part of it is there",
            "make one (`nvidia-smi mig -cgi PROFILE -C`), or give this container one",
        )


def _parts(place: int, whole: Any, uuid: str, driver: str | None) -> Iterator[Gpu | UnusableGpu]:
    import pynvml

    try:
        most = pynvml.nvmlDeviceGetMaxMigDeviceCount(whole)
    except pynvml.NVMLError as refused:
        yield _unusable(place, uuid, refused)
        return
    for index in range(most):
        try:
            part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, index)
            yield _gpu_behind(part, _text(pynvml.nvmlDeviceGetUUID(part)), driver, part_of=uuid)
        except pynvml.NVMLError as refused:
            if refused.value != pynvml.NVML_ERROR_NOT_FOUND:
                yield _unusable(place, uuid, refused)


def _gpu_behind(handle: Any, uuid: str, driver: str | None, part_of: str | None = None) -> Gpu:
    """Raises `NVMLError` where the GPU has no name: results are kept by it."""
    import pynvml

    name = _text(pynvml.nvmlDeviceGetName(handle))
    try:
        total, why = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total), ""
    except pynvml.NVMLError as refused:
        total, why = 0, str(refused)
    known = 0 < total < _NOT_AVAILABLE
    return Gpu(uuid, name, total if known else None, driver, part_of, "" if known else why or f"it says {total}")


def _is_divided(handle: Any) -> bool:
    import pynvml

    try:
        return bool(pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
    except pynvml.NVMLError:
        return False  # a GPU that cannot be divided refuses the question


def _driver() -> str | None:
    import pynvml

    try:
        return _text(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def _unusable(place: int, uuid: str, refused: Any) -> UnusableGpu:
    import pynvml

    hints = {
        pynvml.NVML_ERROR_GPU_IS_LOST: "reset it (`nvidia-smi --gpu-reset`) or reboot",
        pynvml.NVML_ERROR_NO_PERMISSION: "give this user, or this container, access to it",
    }
    return UnusableGpu(place, uuid, str(refused), hints.get(refused.value, "run nvidia-smi, which says more"))


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
        try:
            pynvml.nvmlDeviceGetCount()
        finally:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
    except pynvml.NVMLError as failure:
        other = NoGpu(f"the NVIDIA driver does not answer: {failure}", "run nvidia-smi, which says more")
        return known.get(failure.value, other)
    if unusable := [one for one in list_gpus() if isinstance(one, UnusableGpu)]:
        return NoGpu(_list_unusable(unusable), unusable[0].hint)
    return NoGpu("the NVIDIA driver answers, but reports no GPU", "check with nvidia-smi that a GPU is visible here")


def choose_device(requested: str) -> ChosenDevice:
    """Resolve `auto`, `cpu`, `cuda`, `cuda:all`, or one or several GPUs with commas between them.

    Each is named by its UUID, or as `cuda:1` by its place among those that the driver reports, from 0.

    Raises:
        BadManifest: a device does not exist here, is named twice, or the GPUs are not of one model.
    """
    if requested == "cpu":
        return _cpu("asked for")
    listed = list_gpus()
    gpus = [one for one in listed if isinstance(one, Gpu)]
    unusable = [one for one in listed if isinstance(one, UnusableGpu)]
    without = f", without those that cannot be used ({_list_unusable(unusable)})" if unusable else ""
    if requested == "auto":
        if not gpus:
            return _cpu(_list_unusable(unusable) if unusable else "no NVIDIA GPU here")
        return _gpu(gpus[0], f"the first GPU that the driver reports{without}")
    if requested in ("cuda", _ALL_GPUS):
        if not gpus:
            why = why_no_gpu()
            raise BadManifest(
                f"device {requested!r} is asked for, but {why.message}",
                hint=f"use the device 'cpu' (DEVICE=cpu), or {why.hint}",
            )
        if requested == "cuda":
            return _gpu(gpus[0], f"asked for{without}")
        return _several(gpus, f"all GPUs are asked for{without}")
    return _several([_named(name.strip(), listed) for name in requested.split(",")], "asked for by name")


def _list_unusable(unusable: Sequence[UnusableGpu]) -> str:
    return "; ".join(one.message for one in unusable)


def _named(name: str, listed: Sequence[Gpu | UnusableGpu]) -> Gpu:
    place = _PLACE.fullmatch(name)
    for number, one in enumerate(listed):
        if (one.uuid and one.uuid == name) or (place and int(place[1]) == number):
            if isinstance(one, Gpu):
                return one
            raise BadManifest(f"device {name!r} is asked for, but {one.message}", hint=one.hint)
    gpus = [one for one in listed if isinstance(one, Gpu)]
    if _MODEL.fullmatch(name):
        raise BadManifest(
            f"{name!r} names a model of GPU, which a plan can be made for, and nothing can run on",
            hint=f"`orchestrator plan FILE --device {name}` plans for it; to run, name a GPU: cuda, or its UUID",
        )
    if parts := [one.uuid for one in gpus if one.part_of == name]:
        raise BadManifest(f"{name} is divided (MIG), and runs use a part of it", hint=f"name one: {', '.join(parts)}")
    known = ", ".join(["auto", "cpu", "cuda", _ALL_GPUS, *(gpu.uuid for gpu in gpus)])
    unusable = [one for one in listed if isinstance(one, UnusableGpu)]
    also = f"; {_list_unusable(unusable)}" if unusable else ""
    raise BadManifest(
        f"unknown device {name!r}{also}", hint=f"use one of these, or several with commas between them: {known}"
    )


def _cpu(reason: str) -> ChosenDevice:
    threads = len(os.sched_getaffinity(0))
    return ChosenDevice(
        Device(kind=DeviceKind.CPU, threads=threads), f"{cpu_model()} ({threads} threads)", f"cpu: {reason}"
    )


def _gpu(gpu: Gpu, reason: str) -> ChosenDevice:
    if gpu.driver is None:
        reason += "; the driver does not tell its version, so that it is new enough for the images is not checked"
    device = Device(kind=DeviceKind.CUDA, uuids=(gpu.uuid,))
    return ChosenDevice(device, gpu.name, f"{gpu.name} ({gpu.uuid}): {reason}", gpu.driver, gpu.memory_bytes)


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
    sizes = [gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None]
    least = min(sizes) if len(sizes) == len(gpus) else None
    return ChosenDevice(device, gpus[0].name, shared, gpus[0].driver, least)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
