"""A compression that is killed goes on where it stopped, and ends with the bytes of one that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.contract import RESUME_NAME, Setting, canonical_json
from tests.support.tiny_checkpoints import publish_model, publish_rows, tiny_model, tiny_text

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "sparsegpt": "50%",
    "wanda": "2:4",
    "omniquant": "W4A16g16",
}
KILLS = 2


@pytest.fixture
def inputs(tmp_path):
    publish_model(tmp_path / "model", tiny_model("llama"))
    publish_rows(tmp_path / "c4", "c4", [{"text": tiny_text(30, seed)} for seed in range(20)])
    return {"checkpoint": str(tmp_path / "model"), "calibration": str(tmp_path / "c4")}


def start(method, inputs, output):
    """Start a worker in `output`, where an earlier attempt may have left what it has finished, and nothing else."""
    output.mkdir(exist_ok=True)
    for left in output.iterdir():
        if left.name != RESUME_NAME:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    request = {
        "contract": 1,
        "id": "request",
        "operation": "compress",
        "device": {"threads": 1},
        "inputs": inputs,
        "output": str(output),
        "parameters": {
            "method": method,
            "setting": Setting.parse(SETTINGS[method]).model_dump(),
            "calibration": {"dataset": "c4", "samples": 6, "sequence_length": 16, "seed": 0},
        },
    }
    environment = os.environ | {"LLMCBENCH_IMAGE": str(ROOT / "images" / method / "image.toml"), "OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen(
        [sys.executable, "-m", "harness"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    worker.stdin.write(json.dumps(request))
    worker.stdin.close()
    return worker


def finish(worker):
    final = json.loads(worker.stdout.read().splitlines()[-1])
    worker.wait()
    assert final["event"] == "result", final["message"]
    return final["result"]


def kill_when_a_block_is_kept(worker, folder, blocks):
    while worker.poll() is None and len(list(folder.glob("block-*.safetensors"))) < blocks:
        time.sleep(0.001)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()


@pytest.mark.parametrize("method", ["sparsegpt", "omniquant"])
def test_a_killed_compression_goes_on_at_the_last_finished_block_with_the_same_result(method, inputs, tmp_path):
    whole = finish(start(method, inputs, tmp_path / "whole"))
    assert whole["cost"]["resumed_blocks"] == 0
    output = tmp_path / "killed"
    for blocks in (1, 2):
        kill_when_a_block_is_kept(start(method, inputs, output), output / RESUME_NAME, blocks)
    kept = len(list((output / RESUME_NAME).glob("block-*.safetensors")))
    resumed = finish(start(method, inputs, output))
    assert kept >= 2
    assert resumed["cost"]["resumed_blocks"] == kept
    assert canonical_json(resumed["artifact"]) == canonical_json(whole["artifact"])
    assert not (output / RESUME_NAME).exists()


def test_a_compression_killed_at_any_instants_ends_with_the_same_result(inputs, tmp_path):
    begin = time.monotonic()
    whole = finish(start("sparsegpt", inputs, tmp_path / "whole"))
    wall_seconds = time.monotonic() - begin
    instants = random.Random(0)
    output = tmp_path / "killed"
    for _ in range(KILLS):
        worker = start("sparsegpt", inputs, output)
        time.sleep(instants.uniform(0.6, 1) * wall_seconds)
        worker.kill()
        worker.wait()
        worker.stdout.close()
    assert canonical_json(finish(start("sparsegpt", inputs, output))["artifact"]) == canonical_json(whole["artifact"])


def test_another_request_does_not_go_on_from_what_is_left(inputs, tmp_path):
    output = tmp_path / "killed"
    kill_when_a_block_is_kept(start("sparsegpt", inputs, output), output / RESUME_NAME, 1)
    result = finish(start("wanda", inputs, output))
    assert result["cost"]["resumed_blocks"] == 0
    assert result["artifact"]["method"] == "wanda"
