"""The whole way of one benchmark, through the command line: fetch, prune, evaluate, profile, time, score, report.

The model and the data are made here, a few kilobytes each; the images, their environments and their workers are real.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.containers import engine_or_skip
from tests.support.data_files import write_rows
from tests.support.small_checkpoints import byte_tokenizer, small_model

pytestmark = [pytest.mark.network, pytest.mark.minutes]
PROJECT = Path(__file__).parents[2]
SENTENCES = ("The mill stands by the river.", "A heron waits in the reeds.", "Nobody has seen the miller since May.")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its data and a manifest in one folder."""
    root = tmp_path_factory.mktemp("world")
    model = small_model("llama")
    model.config.max_position_embeddings = 4096
    model.save_pretrained(root / "model")
    byte_tokenizer().save_pretrained(root / "model")
    for path in (root / "model").iterdir():  # a worker in a container is never root, and reads what everybody may
        path.chmod(0o644)
    text = " ".join(SENTENCES * 40)
    write_rows(root / "data/c4/train_first1000.jsonl.gz", [{"text": text, "timestamp": "", "url": ""}] * 20)
    write_rows(root / "data/wikitext2/test.jsonl.gz", [{"text": text}] * 2)
    question = {
        "id": "1",
        "question": "Where does the mill stand?",
        "choices": {"text": ["by the river", "on the hill"], "label": ["A", "B"]},
        "answerKey": "A",
    }
    write_rows(root / "data/arc_easy/test.jsonl.gz", [question] * 3)
    manifest = {
        "name": "end-to-end",
        "models": [{"name": "tiny", "source": f"dir:{root / 'model'}"}],
        "compress": [{"method": "sparsegpt", "setting": "50%"}],
        "calibration": {"samples": 2, "sequence_length": 64},
        "evaluate": {"tasks": ["wikitext2", "arc_easy"], "limit": 2},
        "profile": {"prompt_tokens": 8, "generate_tokens": 4},
        "benchmark": {
            "backends": ["transformers"],
            "prompt_tokens": 8,
            "generate_tokens": 4,
            "batch_sizes": [1],
            "repeats": 2,
        },
        "rounds": {"benchmark": 1, "profile": 1},
        "device": "cpu",
    }
    (root / "manifest.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    return root


def command(world: Path, store: Path, runtime: str) -> list[str]:
    manifest = str(world / "manifest.yaml")
    options = ["--runtime", runtime, "--store", str(store), "--json", "--progress", "plain"]
    return [sys.executable, "-m", "orchestrator", "run", manifest, *options]


def environment(world: Path) -> dict[str, str]:
    return {**os.environ, "LLMCBENCH_DATA": str(world / "data")}


def run(world: Path, store: Path, runtime: str) -> dict[str, Any]:
    done = subprocess.run(
        command(world, store, runtime), capture_output=True, text=True, env=environment(world), cwd=PROJECT, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def heed_the_keyboard() -> None:
    """Undo what a shell does to its background jobs, which the tests may be one of."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def figures(report: dict[str, Any]) -> dict[tuple[object, ...], float]:
    """Everything that does not depend on a clock or on the memory of a process."""
    return {
        (one["place"]["track"], one["place"]["name"], one["variant"]["method"]): one["value"]
        for one in report["scoring"]["values"]
        if one["place"]["track"] in (1, 2) or one["place"]["name"] in ("disk_bytes", "macs")
    }


@pytest.fixture(scope="module")
def by_process(world: Path) -> dict[str, Any]:
    return run(world, world / "process-store", "process")


@pytest.fixture(scope="module")
def by_docker(world: Path) -> dict[str, Any]:
    engine_or_skip()
    return run(world, world / "docker-store", "docker")


def check_complete(report: dict[str, Any]) -> None:
    assert {stage["status"] for stage in report["stages"]} <= {"done", "cached"}
    scores = {(score["variant"]["method"], score["track"]): score for score in report["scoring"]["scores"]}
    for track in (1, 2, 4, 5):
        assert scores[None, track]["value"] == pytest.approx(100)
        assert scores["sparsegpt", track]["value"] > 0
    assert scores["sparsegpt", 6]["value"] is None
    assert scores["sparsegpt", 6]["coverage"]["missing"]


def test_processes_measure_everything(by_process: dict[str, Any]) -> None:
    check_complete(by_process)


@pytest.mark.docker
def test_containers_measure_everything(by_docker: dict[str, Any]) -> None:
    check_complete(by_docker)


@pytest.mark.docker
def test_both_runtimes_find_the_same(world: Path, by_process: dict[str, Any], by_docker: dict[str, Any]) -> None:
    assert by_process["models"] == by_docker["models"]
    artifacts = [
        {path.name for path in (world / f"{name}-store/artifacts").iterdir()} for name in ("process", "docker")
    ]
    assert artifacts[0] == artifacts[1], "the fetched, the pruned checkpoint and the data are the same bytes"
    left, right = figures(by_process), figures(by_docker)
    assert left.keys() == right.keys()
    assert left == pytest.approx(right, rel=1e-5)


def test_a_second_run_finds_everything_done_and_reports_it(world: Path, by_process: dict[str, Any]) -> None:
    again = run(world, world / "process-store", "process")
    assert {stage["status"] for stage in again["stages"]} == {"cached"}
    assert again["scoring"] == {**by_process["scoring"], "run": again["scoring"]["run"]}
    store = str(world / "process-store")
    shown = subprocess.run(
        [sys.executable, "-m", "orchestrator", "report", "last", "--store", store, "--format", "markdown,html"],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=True,
    )
    pages = [Path(line) for line in shown.stdout.splitlines()]
    assert [page.suffix for page in pages] == [".md", ".html"]
    assert all("sparsegpt" in page.read_text(encoding="utf-8") for page in pages)


def test_an_interruption_from_the_keyboard_keeps_what_is_finished(world: Path, by_process: dict[str, Any]) -> None:
    store = world / "interrupted-store"
    store.mkdir()
    (store / "environments").symlink_to(world / "process-store" / "environments")
    victim = subprocess.Popen(
        command(world, store, "process"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(world),
        cwd=PROJECT,
        preexec_fn=heed_the_keyboard,
    )
    assert victim.stderr is not None
    for line in victim.stderr:
        if line.startswith("compress/") and line.endswith("started\n"):
            victim.send_signal(signal.SIGINT)
            break
    rest = victim.stderr.read()
    assert victim.wait() == 130, rest
    assert "run the same command again" in rest
    kept = {path: path.read_bytes() for path in (store / "stages").glob("*/provenance.json")}
    assert "fetch/tiny" in {json.loads(written)["stage"] for written in kept.values()}
    report = run(world, store, "process")
    assert {path: path.read_bytes() for path in kept} == kept, "what is finished is not done again"
    assert figures(report) == pytest.approx(figures(by_process), rel=1e-5)
