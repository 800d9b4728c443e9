"""The reference and vLLM score the same items, each in its own container, and are compared item by item."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.containers import engine_or_skip
from tests.support.data_files import write_rows
from tests.support.zoo import zoo_folder

PROJECT = Path(__file__).parents[2]
PLACES = ("mill", "river", "hill", "wood", "village", "bridge")


def question(number: int, place: str) -> dict[str, Any]:
    return {
        "id": str(number),
        "question": f"The heron stands by the {place}. Where does it stand?",
        "choices": {"text": [f"by the {place}", "in the house", "on the road"], "label": ["A", "B", "C"]},
        "answerKey": "A",
    }


def orchestrator(*arguments: str, data: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "LLMCBENCH_DATA": str(data)},
        cwd=PROJECT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.docker
@pytest.mark.minutes
def test_both_engines_pick_alike_in_containers(tmp_path: Path) -> None:
    """The image of vLLM for a CPU holds no compiler, so nothing may be compiled where it runs."""
    engine_or_skip()
    write_rows(tmp_path / "data/arc_easy/test.jsonl.gz", [question(*pair) for pair in enumerate(PLACES)])
    manifest = {
        "name": "deployed",
        "models": [{"name": "zoo", "source": f"dir:{zoo_folder('llama-gqa')}"}],
        "evaluate": {"tasks": ["arc_easy"], "engine": ["transformers", "vllm"], "dtype": "float32"},
        "device": "cpu",
    }
    path, store = tmp_path / "manifest.yaml", str(tmp_path / "store")
    path.write_text(yaml.safe_dump(manifest), encoding="utf-8")
    options = ["--runtime", "docker", "--store", store, "--progress", "plain"]
    report = orchestrator("run", str(path), *options, data=tmp_path / "data")
    assert {stage["status"] for stage in report["stages"]} <= {"done", "cached"}
    (task,) = orchestrator("agreement", "last", "--store", store, data=tmp_path / "data")["tasks"]
    assert (task["reference_dtype"], task["engine_dtype"]) == ("float32", "float32")
    assert task["identical_picks"] == task["picks"] == task["items"] == len(PLACES)
    assert task["largest_difference_nats"] < 1e-3
