import json

import pytest

from harness.contract import Device, DeviceKind
from orchestrator.host.worker_user import worker_user
from orchestrator.runtime.docker import container_options
from orchestrator.runtime.launch import Launch
from orchestrator.runtime.reach import Reach

GPU = "GPU-11111111-2222-3333-4444-555555555555"


@pytest.mark.docker
def test_a_worker_writes_to_its_output_and_scratch_alone(containers, tmp_path):
    inputs = tmp_path / "checkpoint"
    inputs.mkdir()

    completed = containers.do("write_about", inputs={"checkpoint": inputs})

    assert completed.final.message == "/tmp/allowed,/out/allowed"
    assert list(inputs.iterdir()) == []


@pytest.mark.docker
def test_a_worker_is_not_root_and_has_neither_capabilities_nor_a_network(containers):
    seen = json.loads(containers.do("show_self").final.message)

    assert seen["uid"] == worker_user()[0] != 0
    assert seen["capabilities"] == 0
    assert seen["no_new_privileges"] == "1"
    assert seen["interfaces"] == ["lo"]


@pytest.mark.docker
def test_fetch_alone_has_a_network(containers):
    seen = json.loads(containers.fetch("show_self").final.message)

    assert len(seen["interfaces"]) > 1


@pytest.mark.docker
def test_an_unchanged_image_is_not_built_again(containers):
    notes = []
    first = containers.runtime.prepare(containers.image, DeviceKind.CPU, notes.append)
    second = containers.runtime.prepare(containers.image, DeviceKind.CPU, notes.append)

    assert first == second
    assert first.startswith("docker:inputs:")
    assert notes == []


@pytest.mark.parametrize("gpus", [(GPU,), (GPU, "GPU-other")])
def test_the_gpus_asked_for_are_named_by_uuid(hostile, gpus):
    options = container_options(Launch(hostile, b"", device=Device(kind=DeviceKind.CUDA, uuids=gpus)))

    assert options["device_requests"] == [
        {"Driver": "", "Count": 0, "DeviceIDs": list(gpus), "Capabilities": [["gpu"]], "Options": {}}
    ]
    assert options["environment"]["CUDA_VISIBLE_DEVICES"] == ",".join(gpus)


def test_a_container_for_any_gpu_gets_one(hostile, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    options = container_options(Launch(hostile, b"", device=Device(kind=DeviceKind.CUDA)))

    assert [one["Count"] for one in options["device_requests"]] == [1]
    assert options["environment"]["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_cpu_worker_gets_no_gpu(hostile):
    options = container_options(Launch(hostile, b""))

    assert options["device_requests"] == []
    assert options["environment"]["CUDA_VISIBLE_DEVICES"] == ""


def test_a_proxy_on_this_machine_puts_fetch_on_the_host_network(hostile, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:3128")

    assert container_options(Launch(hostile, b"", reach=Reach.PACKAGES))["network_mode"] == "host"
    assert container_options(Launch(hostile, b""))["network_mode"] == "none"
