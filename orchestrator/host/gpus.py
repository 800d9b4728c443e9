"""Which GPUs the NVIDIA driver reports, and what it says where none can be used."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

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
        return NoGpu(list_unusable(unusable), unusable[0].hint)
    return NoGpu("the NVIDIA driver answers, but reports no GPU", "check with nvidia-smi that a GPU is visible here")


def list_unusable(unusable: Sequence[UnusableGpu]) -> str:
    return "; ".join(one.message for one in unusable)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
