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
METHOD = "sparsegpt"
WARM_WORKERS = """
import importlib, json, os, signal, sys

for name in ("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
             "transformers.models.llama.modeling_llama"):
    importlib.import_module(name)
sys.modules["torch"].set_num_threads(1)

def count(event, arguments):
    global left
    if event != "os.rename" or not str(arguments[0]).startswith(output):
        return
    if what == "file" or os.path.basename(str(arguments[1])).startswith(what):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

while line := sys.stdin.readline():
    request, said, output, what, left = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(request, os.O_RDONLY), 0)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        if what:
            sys.addaudithook(count)
        from harness.serve import main
        os._exit(main())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Each line of stdin makes a worker, a fork of a process that has the libraries loaded; stdout gets its status.

It is killed when it is to give one `what`, a "file" or "block", more than `left` its name in the output folder.
"""


@pytest.fixture(scope="module")
def workers():
    """The process that forks workers, on one method's image."""
    variables = {"LLMCBENCH_IMAGE": str(ROOT / "images" / METHOD / "image.toml"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WARM_WORKERS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | variables
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def inputs(tmp_path):
    publish_model(tmp_path / "model", tiny_model("llama"))
    publish_rows(tmp_path / "c4", "c4", [{"text": tiny_text(30, seed)} for seed in range(20)])
    return {"checkpoint": str(tmp_path / "model"), "calibration": str(tmp_path / "c4")}


def work(workers, inputs, output, what="", left=0):
    """Be a worker in `output`, where an earlier attempt may have left what it has finished, and nothing else.

    Returns its result, or None where it was to be killed.
    """
    output.mkdir(exist_ok=True)
    for entry in output.iterdir():
        if entry.name != RESUME_NAME:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    request = {
        "contract": 1,
        "id": "request",
        "operation": "compress",
        "device": {"threads": 1},
        "inputs": inputs,
        "output": str(output),
        "parameters": {
            "method": METHOD,
            "setting": Setting.parse("50%").model_dump(),
            "calibration": {"dataset": "c4", "samples": 6, "sequence_length": 16, "seed": 0},
        },
    }
    asked, said = output.parent / "request.json", output.parent / "said.jsonl"
    asked.write_text(json.dumps(request), encoding="utf-8")
    print(json.dumps([str(asked), str(said), str(output), what, left]), file=workers.stdin, flush=True)
    status = int(workers.stdout.readline())
    if what:
        assert status == -signal.SIGKILL, said.read_text("utf-8")
        return None
    final = json.loads(said.read_text("utf-8").splitlines()[-1])
    assert final["event"] == "result", final["message"]
    return final["result"]


def kept_blocks(output):
    return len(list((output / RESUME_NAME).glob("block-*.safetensors")))


@pytest.mark.slow
def test_a_compression_killed_again_and_again_goes_on_at_the_last_finished_block_with_the_same_result(
    workers, inputs, tmp_path
):
    whole = work(workers, inputs, tmp_path / "whole")
    assert whole["cost"]["resumed_blocks"] == 0
    output = tmp_path / "killed"
    kept = []
    for dying in (("block", 1), ("block", 1), ("file", 1)):
        work(workers, inputs, output, *dying)
        kept.append(kept_blocks(output))
    resumed = work(workers, inputs, output)
    assert kept == [1, 2, 3]
    assert resumed["cost"]["resumed_blocks"] == kept[-1]
    assert canonical_json(resumed["artifact"]) == canonical_json(whole["artifact"])
    assert not (output / RESUME_NAME).exists()
