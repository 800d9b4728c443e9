"""An NVML with one invented GPU: its functions have the names and parameters of the installed nvidia-ml-py."""

import inspect
import itertools
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml
import pytest

UUID = "GPU-11111111-2222-3333-4444-555555555555"
HANDLE = object()


def fake_nvml(**answers: Callable[..., Any]) -> ModuleType:
    """A module to import as `pynvml`. An answer for a function that the real one lacks is an error at once.

    Calls are bound to the real function's parameters first. Functions without an answer raise NVML's "Not Supported".
    """
    module = ModuleType("pynvml")
    constants = {name: value for name, value in vars(pynvml).items() if isinstance(value, int | type)}
    module.__dict__.update(constants)
    known = {
        name: value for name, value in vars(pynvml).items() if name.startswith("nvml") and inspect.isfunction(value)
    }
    absent = answers.keys() - known.keys()
    assert not absent, f"nvidia-ml-py has no {sorted(absent)}"
    for name, real in known.items():
        module.__dict__[name] = _function(name, inspect.signature(real), answers.get(name))
    return module


def _function(name: str, signature: inspect.Signature, answer: Callable[..., Any] | None) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        bound = signature.bind(*arguments, **keywords)
        if name.startswith("nvmlDevice") and "handle" in bound.arguments:
            assert bound.arguments["handle"] is HANDLE
        if answer is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return answer(*(value for key, value in bound.arguments.items() if key != "handle"))

    return call


def one_gpu(**changes: Callable[..., Any]) -> ModuleType:
    """A GPU that answers everything; each sample finds its SM clock 10 MHz lower, each look at its energy 64 J more."""
    clock = iter(range(1980, 0, -10))
    energy = iter(range(5_000_000, 6_000_000, 64_000))
    answers: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlDeviceGetHandleByUUID": _handle,
        "nvmlDeviceGetClockInfo": lambda kind: next(clock) if kind == pynvml.NVML_CLOCK_SM else 3201,
        "nvmlDeviceGetPowerUsage": lambda: 650_000,
        "nvmlDeviceGetEnforcedPowerLimit": lambda: 700_000,
        "nvmlDeviceGetTemperature": lambda sensor: 61 + sensor,
        "nvmlDeviceGetMemoryInfo": lambda *version: SimpleNamespace(total=10, free=3, used=7),
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda: (
            pynvml.nvmlClocksThrottleReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonHwSlowdown
        ),
        "nvmlDeviceGetTotalEnergyConsumption": lambda: next(energy),
        "nvmlDeviceGetEccMode": lambda: [1, 1],
        "nvmlDeviceGetComputeRunningProcesses": lambda: [SimpleNamespace(pid=1), SimpleNamespace(pid=2)],
    }
    return fake_nvml(**{**answers, **changes})


def _handle(uuid: str) -> object:
    if uuid != UUID:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
    return HANDLE


def on_its_clock(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.1) -> None:
    """The telemetry of that GPU finds that any work took so long."""
    clock = SimpleNamespace(perf_counter=itertools.cycle((0.0, seconds)).__next__)
    monkeypatch.setattr("harness.device_telemetry.time", clock)
