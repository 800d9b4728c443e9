"""A worker that is killed while it compresses goes on where it stopped, and ends with the bytes of one that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.contract import RESUME_NAME, Setting, canonical_json
from tests.support.tiny_checkpoints import publish_model, publish_rows, tiny_model, tiny_text

ROOT = Path(__file__).parents[2]
DYING_WORKER = """
import os, signal, sys
from harness.serve import main

output, what, left = sys.argv[1], sys.argv[2], int(sys.argv[3])

def count(event, arguments):
    global left
    if event != "os.rename" or not str(arguments[0]).startswith(output):
        return
    if what == "file" or os.path.basename(str(arguments[1])).startswith(what):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
sys.exit(main())
"""
"""Is killed when it is to give one `file` or `block` too many its name in the output folder."""


@pytest.fixture
def inputs(tmp_path):
    publish_model(tmp_path / "model", tiny_model("llama"))
    publish_rows(tmp_path / "c4", "c4", [{"text": tiny_text(30, seed)} for seed in range(20)])
    return {"checkpoint": str(tmp_path / "model"), "calibration": str(tmp_path / "c4")}


def work(method, setting, inputs, output, *dying):
    """Run a worker in `output`, where an earlier attempt may have left what it has finished, and nothing else.

    Returns its last event, or None where it was killed: `dying` says what it was to name, after how many.
    """
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
            "setting": Setting.parse(setting).model_dump(),
            "calibration": {"dataset": "c4", "samples": 6, "sequence_length": 16, "seed": 0},
        },
    }
    program = ["-c", DYING_WORKER, str(output), *map(str, dying)] if dying else ["-m", "harness"]
    worker = subprocess.run(
        [sys.executable, *program],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"LLMCBENCH_IMAGE": str(ROOT / "images" / method / "image.toml"), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if dying:
        assert worker.returncode == -signal.SIGKILL, worker.stderr
        return None
    final = json.loads(worker.stdout.splitlines()[-1])
    assert final["event"] == "result", final["message"]
    return final["result"]


def kept_blocks(output):
    return len(list((output / RESUME_NAME).glob("block-*.safetensors")))


@pytest.mark.slow
def test_a_compression_killed_again_and_again_goes_on_at_the_last_finished_block_with_the_same_result(inputs, tmp_path):
    whole = work("sparsegpt", "50%", inputs, tmp_path / "whole")
    assert whole["cost"]["resumed_blocks"] == 0
    output = tmp_path / "killed"
    kept = []
    for dying in (("block", 1), ("block", 1), ("file", 1)):
        work("sparsegpt", "50%", inputs, output, *dying)
        kept.append(kept_blocks(output))
    resumed = work("sparsegpt", "50%", inputs, output)
    assert kept == [1, 2, 3]
    assert resumed["cost"]["resumed_blocks"] == kept[-1]
    assert canonical_json(resumed["artifact"]) == canonical_json(whole["artifact"])
    assert not (output / RESUME_NAME).exists()
