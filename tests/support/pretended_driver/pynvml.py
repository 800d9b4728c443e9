"""A driver that reports the GPUs of the variable PRETENDED_GPUS, as `uuid=model,uuid=model`, for processes of a test.

It stands in for the module of nvidia-ml-py where its folder comes first in PYTHONPATH.
"""

import os
from types import SimpleNamespace

NVML_DEVICE_MIG_ENABLE = 1
NVML_ERROR_NOT_FOUND, NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_LIBRARY_NOT_FOUND = 6, 3, 12
NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIB_RM_VERSION_MISMATCH, NVML_ERROR_NO_PERMISSION = 9, 18, 4
NVML_ERROR_GPU_IS_LOST = 15


class NVMLError(Exception):
    value = NVML_ERROR_NOT_SUPPORTED


def _gpus() -> list[tuple[str, str]]:
    said = os.environ.get("PRETENDED_GPUS", "")
    return [(uuid, model) for uuid, _, model in (one.partition("=") for one in said.split(",") if one)]


def nvmlInit() -> None:  # noqa: N802  the names are NVML's
    pass


def nvmlShutdown() -> None:  # noqa: N802
    pass


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return len(_gpus())


def nvmlSystemGetDriverVersion() -> str:  # noqa: N802
    return "580.95"


def nvmlDeviceGetHandleByIndex(index: int) -> int:  # noqa: N802
    return index


def nvmlDeviceGetUUID(index: int) -> str:  # noqa: N802
    return _gpus()[index][0]


def nvmlDeviceGetName(index: int) -> str:  # noqa: N802
    return _gpus()[index][1]


def nvmlDeviceGetMemoryInfo(index: int) -> SimpleNamespace:  # noqa: N802
    return SimpleNamespace(total=80 * 2**30)


def nvmlDeviceGetMigMode(index: int) -> list[int]:  # noqa: N802
    raise NVMLError
