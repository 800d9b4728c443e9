"""What both sides call the processor: the orchestrator in stage keys, the worker in its results."""

import platform
from pathlib import Path


def cpu_model() -> str:
    """The processor's marketing name, or the machine type where the kernel does not give one."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
