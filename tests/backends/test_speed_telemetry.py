"""The GPU's own counters, against an NVML that has the real functions' names and parameters."""

import sys
import threading
from types import ModuleType
from typing import Any

import pynvml
import pytest

from harness.contract import DeviceTelemetry
from harness.device_telemetry import watch
from tests.support.fake_nvml import UUID, fake_nvml, on_its_clock, one_gpu

TOKENS = 32


def watched(monkeypatch: pytest.MonkeyPatch, nvml: ModuleType) -> DeviceTelemetry:
    """Of work that lasts until the GPU was asked three times."""
    asked = threading.Semaphore(0)
    plain = nvml.nvmlDeviceGetMemoryInfo

    def memory(*arguments: Any) -> Any:
        asked.release()
        return plain(*arguments)

    def work() -> int:
        for _ in range(3):
            asked.acquire()
        return TOKENS

    nvml.__dict__["nvmlDeviceGetMemoryInfo"] = memory
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    on_its_clock(monkeypatch)
    telemetry, absent = watch((UUID,), work)
    assert absent is None
    assert telemetry is not None
    return telemetry


def refused(code: int) -> None:
    raise pynvml.NVMLError(code)


def test_every_figure_is_read_in_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = watched(monkeypatch, one_gpu())
    assert telemetry.absent == {}
    assert (telemetry.driver, telemetry.device_uuid) == ("580.1", UUID)
    assert telemetry.samples >= 3
    assert telemetry.seconds > 0
    clock = telemetry.sm_clock_mhz
    assert clock is not None
    assert clock.maximum == 1980
    assert clock.minimum == 1980 - 10 * (telemetry.samples - 1)
    assert clock.minimum <= clock.median <= clock.maximum
    assert telemetry.memory_clock_mhz is not None
    assert telemetry.memory_clock_mhz.median == 3201
    assert telemetry.power_watts is not None
    assert telemetry.power_watts.median == pytest.approx(650)
    assert telemetry.temperature_celsius is not None
    assert telemetry.temperature_celsius.maximum == 61
    assert telemetry.memory_used_bytes == 7
    assert telemetry.ecc_enabled is True
    assert telemetry.other_processes == 1
    assert telemetry.energy_joules_per_token == pytest.approx(64 / TOKENS)
    assert (telemetry.energy_joules, telemetry.power_limit_watts) == (64, 700)
    assert [(one.implied, one.possible, one.unit) for one in telemetry.bounds] == [(64, pytest.approx(140), "J")]


def test_throttling_is_counted_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = watched(monkeypatch, one_gpu())
    assert telemetry.throttle_reasons == {"HwSlowdown": telemetry.samples, "SwPowerCap": telemetry.samples}
    free = watched(monkeypatch, one_gpu(nvmlDeviceGetCurrentClocksThrottleReasons=lambda: 0))
    assert free.throttle_reasons == {}
    assert "throttle_reasons" not in free.absent


def test_what_the_gpu_does_not_tell_is_absent_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    unsupported = {
        "nvmlDeviceGetTotalEnergyConsumption": lambda: refused(pynvml.NVML_ERROR_NOT_SUPPORTED),
        "nvmlDeviceGetEccMode": lambda: refused(pynvml.NVML_ERROR_NOT_SUPPORTED),
        "nvmlDeviceGetPowerUsage": lambda: refused(pynvml.NVML_ERROR_NO_PERMISSION),
    }
    telemetry = watched(monkeypatch, one_gpu(**unsupported))
    assert (telemetry.energy_joules_per_token, telemetry.ecc_enabled, telemetry.power_watts) == (None, None, None)
    assert telemetry.absent == {
        "energy_joules_per_token": "Not Supported",
        "ecc_enabled": "Not Supported",
        "power_watts": "Insufficient Permissions",
    }
    assert telemetry.sm_clock_mhz is not None


def test_without_counters_the_work_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> int:
        raise AssertionError("the work was run")

    assert watch((), never) == (None, "computed on the CPU, which has no such counters")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert watch((UUID,), never) == (None, "nvidia-ml-py is not installed in this image")
    off = fake_nvml(nvmlInit=lambda: refused(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    monkeypatch.setitem(sys.modules, "pynvml", off)
    assert watch((UUID,), never) == (None, "NVML does not start: NVML Shared Library Not Found")
    monkeypatch.setitem(sys.modules, "pynvml", one_gpu())
    assert watch(("GPU-of-another-host",), never) == (None, "NVML does not know GPU GPU-of-another-host: Not Found")


def test_a_gpu_that_is_lost_meanwhile_costs_the_counters_and_not_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {
        name: lambda *arguments: refused(pynvml.NVML_ERROR_GPU_IS_LOST)
        for name in ("nvmlShutdown", "nvmlDeviceGetClockInfo", "nvmlDeviceGetTemperature")
    }
    telemetry = watched(monkeypatch, one_gpu(**lost))
    assert telemetry.absent["sm_clock_mhz"] == telemetry.absent["temperature_celsius"] == "GPU is lost"
    assert telemetry.driver == "580.1"


def test_a_driver_without_a_version_is_found_out_before_the_work_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    nameless = one_gpu(nvmlSystemGetDriverVersion=lambda: refused(pynvml.NVML_ERROR_UNKNOWN))
    monkeypatch.setitem(sys.modules, "pynvml", nameless)
    assert watch((UUID,), lambda: pytest.fail("the work was run")) == (
        None,
        f"NVML does not know GPU {UUID}: Unknown Error",
    )


def test_nvml_is_closed_also_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setitem(sys.modules, "pynvml", one_gpu(nvmlShutdown=lambda: closed.append(True)))

    def fail() -> int:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        watch((UUID,), fail)
    assert closed == [True]


def test_the_fake_refuses_names_that_the_library_has_not() -> None:
    with pytest.raises(AssertionError, match="nvmlDeviceGetPowerUse"):
        fake_nvml(nvmlDeviceGetPowerUse=lambda: 1)
