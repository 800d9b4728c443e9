"""An NVML of an invented host with several GPUs, each of which may refuse any question."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml
import pytest

QUESTIONS = (
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount",
)


@dataclass
class FakeGpu:
    """`refuses` maps NVML's function names to error codes; `parts` None stands for a GPU that cannot be divided.

    A part that is an error code is refused with that.
    """

    uuid: str
    name: str = "H100"
    memory_bytes: int = 80 * 2**30
    refuses: Mapping[str, int] = field(default_factory=dict)
    parts: "tuple[FakeGpu | int, ...] | None" = None

    def answer(self, question: str) -> Any:
        if question in self.refuses:
            raise pynvml.NVMLError(self.refuses[question])
        if question in ("nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount") and self.parts is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return {
            "nvmlDeviceGetUUID": self.uuid,
            "nvmlDeviceGetName": self.name,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=self.memory_bytes),
            "nvmlDeviceGetMigMode": [pynvml.NVML_DEVICE_MIG_ENABLE, 0],
            "nvmlDeviceGetMaxMigDeviceCount": len(self.parts or ()),
        }[question]


def install_host(
    monkeypatch: pytest.MonkeyPatch, *gpus: FakeGpu | int, refuses: Mapping[str, int] | None = None
) -> ModuleType:
    """Have the installed `pynvml` answer for these GPUs; one that is an error code gives no handle.

    `refuses` are the questions about the host itself that end in an error.
    """
    host_refuses = refuses or {}

    def about_host(question: str, answer: Any) -> Any:
        if question in host_refuses:
            raise pynvml.NVMLError(host_refuses[question])
        return answer

    def handle(index: int) -> FakeGpu:
        return _or_refuse(gpus[index])

    def part(whole: FakeGpu, index: int) -> FakeGpu:
        return _or_refuse((whole.parts or ())[index])

    answers: dict[str, Any] = {
        "nvmlInit": lambda: about_host("nvmlInit", None),
        "nvmlShutdown": lambda: about_host("nvmlShutdown", None),
        "nvmlSystemGetDriverVersion": lambda: about_host("nvmlSystemGetDriverVersion", "580.95"),
        "nvmlDeviceGetCount": lambda: about_host("nvmlDeviceGetCount", len(gpus)),
        "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetMigDeviceHandleByIndex": part,
    }
    answers |= {name: _asking(name) for name in QUESTIONS}
    for name, answer in answers.items():
        assert hasattr(pynvml, name)
        monkeypatch.setattr(pynvml, name, answer)
    return pynvml


def _asking(question: str) -> Any:
    return lambda gpu, *version: gpu.answer(question)


def _or_refuse(gpu: FakeGpu | int) -> FakeGpu:
    if isinstance(gpu, int):
        raise pynvml.NVMLError(gpu)
    return gpu
