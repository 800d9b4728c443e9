"""What a worker of the process runtime sees of the host's GPUs."""

from pathlib import Path

import pytest

from harness.contract import Device, DeviceKind
from orchestrator.images.image import Image
from orchestrator.runtime.environments import WorkerEnvironment
from orchestrator.runtime.launch import Launch
from orchestrator.runtime.process import _variables


@pytest.mark.parametrize(
    ("device", "seen"),
    [
        (Device(), ""),
        (Device(kind=DeviceKind.CUDA, uuids=("GPU-b",)), "GPU-b"),
        (Device(kind=DeviceKind.CUDA, uuids=("MIG-b",)), "MIG-b"),
        (Device(kind=DeviceKind.CUDA, uuids=("GPU-b", "GPU-a")), "GPU-b,GPU-a"),
        (Device(kind=DeviceKind.CUDA), "GPU-x"),
    ],
)
def test_a_process_sees_what_its_stage_was_given(
    hostile: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device, seen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-x,GPU-y")
    variables = _variables(Launch(hostile, b"", device=device), WorkerEnvironment(tmp_path, "", ""), tmp_path)
    assert variables["CUDA_VISIBLE_DEVICES"] == seen
