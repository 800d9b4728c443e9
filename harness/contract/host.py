"""What both sides call the processor: the orchestrator in stage keys, the worker in its results."""

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_NUMBERS = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU architecture", "CPU variant", "CPU part")
_X86 = "avx2 fma avx_vnni avx512f avx512bw avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_bf16 amx_int8"
_ARM = "asimd asimdhp asimddp sve sve2 bf16 i8mm"
_WIDTHS = frozenset(f"{_X86} {_ARM}".split())
"""The instructions that matrix libraries have kernels of their own for."""


def cpu_model() -> str:
    """The processor's marketing name, or the machine type where the kernel does not give one."""
    return _first_processor().get("model name") or platform.machine()


def cpu_family() -> str | None:
    """Its maker's numbers and the vector instructions that a hypervisor lets through, `GenuineIntel 6 207: avx2 fma`:
    what libraries choose their kernels by, and so the last digits. None where the kernel does not say."""
    processor = _first_processor()
    numbers = " ".join(processor[name] for name in _NUMBERS if name in processor)
    instructions = (processor.get("flags") or processor.get("Features") or "").split()
    widths = " ".join(sorted(_WIDTHS.intersection(instructions)))
    return f"{numbers}: {widths}" if numbers and widths else None


@cache
def _first_processor() -> Mapping[str, str]:
    """What the kernel says of the first, empty where it says nothing."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return {}
    first = cpuinfo.read_text(encoding="utf-8", errors="replace").strip().partition("\n\n")[0]
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}
