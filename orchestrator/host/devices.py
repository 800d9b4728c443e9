"""Which device a run uses. Every automatic choice comes with its reason."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.contract import VISIBLE_GPUS, Device, DeviceKind, cpu_model
from orchestrator.errors import BadManifest
from orchestrator.host.gpus import Gpu, UnusableGpu, list_gpus, list_unusable, why_no_gpu

ALL_GPUS = "cuda:all"
_PLACE = re.compile(r"cuda:(\d+)")
_MODEL = re.compile(r"cuda:[A-Za-z][\w-]*", re.ASCII)


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


def choose_device(requested: str) -> ChosenDevice:
    """Resolve `auto`, `cpu`, `cuda`, `cuda:all`, or one or several GPUs with commas between them.

    Each is named by its UUID, or as `cuda:1` by its place among those that the driver reports, from 0. Where
    CUDA_VISIBLE_DEVICES is set, as schedulers do, only those that it names are there.

    Raises:
        BadManifest: a device does not exist here, is named twice, or the GPUs are not of one model.
    """
    if requested == "cpu":
        return _cpu("asked for")
    there, named = list_gpus(), os.environ.get(VISIBLE_GPUS)
    listed = _visible(there, named)
    hidden = f"{VISIBLE_GPUS} is {named!r} and hides every GPU" if there and not listed else ""
    gpus = [one for one in listed if isinstance(one, Gpu)]
    unusable = [one for one in listed if isinstance(one, UnusableGpu)]
    without = f", without those that cannot be used ({list_unusable(unusable)})" if unusable else ""
    if requested == "auto":
        if not gpus:
            return _cpu(hidden or list_unusable(unusable) or "no NVIDIA GPU here")
        return _gpu(gpus[0], f"the first GPU that the driver reports{without}")
    if requested in ("cuda", ALL_GPUS):
        if hidden:
            raise BadManifest(
                f"device {requested!r} is asked for, but {hidden}",
                hint="unset it, or use the device 'cpu' (DEVICE=cpu)",
            )
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


def _visible(listed: Sequence[Gpu | UnusableGpu], named: str | None) -> tuple[Gpu | UnusableGpu, ...]:
    """Those that CUDA would see, in the order in which they are named: up to the first name that is none's.

    A name is a number from 0, or the beginning of one UUID.
    """
    if named is None:
        return tuple(listed)
    seen: list[Gpu | UnusableGpu] = []
    for name in map(str.strip, named.split(",")):
        if name.isdecimal():
            found = list(listed[int(name) : int(name) + 1])
        else:
            found = [one for one in listed if name and one.uuid.startswith(name)]
        if len(found) != 1:
            break
        seen.extend(found)
    return tuple(seen)


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
    known = ", ".join(["auto", "cpu", "cuda", ALL_GPUS, *(gpu.uuid for gpu in gpus)])
    unusable = [one for one in listed if isinstance(one, UnusableGpu)]
    also = f"; {list_unusable(unusable)}" if unusable else ""
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
    shared = f"{len(gpus)} x {gpus[0].name} ({', '.join(uuids)}), each stage on whichever is free: {reason}"
    sizes = [gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None]
    least = min(sizes) if len(sizes) == len(gpus) else None
    return ChosenDevice(device, gpus[0].name, shared, gpus[0].driver, least)
