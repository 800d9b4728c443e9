"""Provenance that only the worker can see: libraries, device, and the harness source itself."""

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from harness.contract import (
    DescribeRequest,
    Device,
    DeviceKind,
    Environment,
    WorkRequest,
    cpu_family,
    cpu_model,
    harness_digest,
)

_DRIVER_VERSION = re.compile(r"\b\d{3,}\.\d+(\.\d+)?\b")


def available_threads() -> int:
    return len(os.sched_getaffinity(0))


def describe_environment(request: DescribeRequest | WorkRequest) -> Environment:
    """Describe this process, without importing a library that the work itself did not need."""
    device = Device() if isinstance(request, DescribeRequest) else request.device
    device_model, driver = (cpu_model(), None) if device.kind is DeviceKind.CPU else _gpu()
    return Environment(
        harness_digest=harness_digest(),
        python=platform.python_version(),
        platform=platform.platform(),
        device_kind=device.kind,
        device_model=device_model,
        cpu_family=cpu_family(),
        driver=driver,
        threads=device.threads or available_threads(),
        libraries=dict(_installed_libraries()),
    )


@cache
def _installed_libraries() -> Mapping[str, str]:
    """The version of every distribution in this environment, by its name as package indexes write it.

    Read once, which takes a good part of a second where hundreds are installed: nothing installs while a worker runs.
    """
    described = (one.metadata for one in importlib.metadata.distributions())
    found = {str(one["Name"]): str(one["Version"]) for one in described}
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in sorted(found.items())}


def _gpu() -> tuple[str, str | None]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "cuda (not opened by this operation)", None
    driver = Path("/proc/driver/nvidia/version")
    version = driver_version(driver.read_text(encoding="utf-8")) if driver.exists() else None
    return str(torch.cuda.get_device_name(0)), version


def driver_version(text: str) -> str | None:
    """The version in what the NVIDIA driver says of itself, such as `580.159.04`; None if there is none."""
    found = _DRIVER_VERSION.search(text)
    return found.group(0) if found else None
