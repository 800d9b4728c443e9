"""A worker sees the device of its request and no other, whatever it was started with."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.contract import Device, DeviceKind
from harness.device_telemetry import gpu_uuids
from harness.errors import BadRequest
from harness.evaluation import parallel
from harness.evaluation.engine import EngineJob
from harness.evaluation.reference import split_job
from harness.visible_devices import see_only

ROOT = Path(__file__).parents[2]
VISIBLE = "CUDA_VISIBLE_DEVICES"
SAYS_WHAT_IT_SEES = """
import os, sys
{first}
import harness.operations
from harness.contract import Reason
from harness.errors import Unsupported

def perform(request, reporter):
    raise Unsupported(Reason.DEVICE, repr((os.environ["CUDA_VISIBLE_DEVICES"], "torch" in sys.modules)), hint="-")

harness.operations.perform = perform
from harness.serve import main
sys.exit(main())
"""


def serve(output: Path, device: dict[str, Any], *, first: str = "", **variables: str) -> dict[str, Any]:
    """The last event of a worker that was started by hand and says what it sees; `first` is done before its harness."""
    asked = {"id": "x", "operation": "profile", "device": device, "output": str(output), "parameters": {}}
    environment = {name: value for name, value in os.environ.items() if name != VISIBLE}
    done = subprocess.run(
        [sys.executable, "-c", SAYS_WHAT_IT_SEES.format(first=first)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | variables,
        check=False,
    )
    final: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return final


DEVICES = [
    ({"kind": "cuda", "uuids": ["GPU-b"]}, "GPU-a,GPU-b", "GPU-b"),
    ({"kind": "cuda", "uuids": ["GPU-b"]}, None, "GPU-b"),
    ({"kind": "cuda", "uuids": ["MIG-1a"]}, None, "MIG-1a"),
    ({"kind": "cuda", "uuids": ["GPU-b", "GPU-a"]}, "0", "GPU-b,GPU-a"),
    ({"kind": "cuda"}, "GPU-b,GPU-a", "GPU-b"),
    ({"kind": "cuda"}, None, "0"),
    ({"kind": "cuda"}, "", ""),
    ({"kind": "cpu"}, "GPU-a", ""),
    ({"kind": "cpu"}, None, ""),
]


@pytest.mark.parametrize(("device", "started_with", "seen"), DEVICES)
def test_what_is_left_to_see_are_the_devices_of_the_request(
    monkeypatch: pytest.MonkeyPatch, device: dict[str, Any], started_with: str | None, seen: str
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(os, "environ", {} if started_with is None else {VISIBLE: started_with})
    see_only(Device.model_validate(device))
    assert os.environ[VISIBLE] == seen


@pytest.mark.parametrize(("device", "started_with", "seen"), [DEVICES[0], DEVICES[4], DEVICES[7]])
def test_a_worker_sees_the_devices_of_its_request_alone_before_torch_is_there(
    tmp_path: Path, device: dict[str, Any], started_with: str | None, seen: str
) -> None:
    variables = {} if started_with is None else {VISIBLE: started_with}
    assert serve(tmp_path, device, **variables)["message"] == repr((seen, False))


def test_a_worker_in_which_torch_may_have_seen_other_gpus_is_refused(tmp_path: Path) -> None:
    device = {"kind": "cuda", "uuids": ["GPU-b"]}
    loaded = "sys.modules['torch'] = object()"  # that it is there is all that is known of what it saw
    refused = serve(tmp_path, device, first=loaded, **{VISIBLE: "GPU-a,GPU-b"})
    assert (refused["code"], refused["hint"]) == ("bad_request", f"start the worker with {VISIBLE}=GPU-b")
    assert serve(tmp_path, device, first=loaded, **{VISIBLE: "GPU-b"})["message"] == repr(("GPU-b", True))


@pytest.mark.parametrize("name", ["1", "cuda:1", "b2", "GPU-"])
def test_a_gpu_that_is_not_named_by_its_uuid_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="is no UUID of a GPU"):
        see_only(Device(kind=DeviceKind.CUDA, uuids=(name,)))


def test_each_process_of_an_evaluation_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setattr(parallel.subprocess, "Popen", lambda *_, env, **__: started.append(env))
    job = EngineJob(Path("model"), Device(kind=DeviceKind.CUDA, uuids=("GPU-a", "GPU-b")), None, None)
    for part in split_job(job, 2):
        with Path(os.devnull).open("rb") as theirs:
            parallel._start(part, theirs)  # type: ignore[arg-type]  # only its number is used
    assert [environment[VISIBLE] for environment in started] == ["GPU-a", "GPU-a", "GPU-b", "GPU-b"]


def test_a_part_of_a_gpu_keeps_its_own_name_in_the_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv(VISIBLE, "MIG-1a")
    assert gpu_uuids(torch.device("cuda", 0)) == ("MIG-1a",)
    assert gpu_uuids(torch.device("cpu")) == ()
