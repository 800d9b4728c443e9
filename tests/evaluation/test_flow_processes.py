"""Evaluations in several processes, and evaluations whose processes are killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.contract import (
    EVENT,
    RESUME_NAME,
    Device,
    DeviceKind,
    Dtype,
    EvaluateParameters,
    EvaluateRequest,
    EvaluateResult,
    Reason,
    ResultEvent,
    harness_folder,
)
from harness.contract.items import ChoiceItem
from harness.errors import BadCheckpoint, Unsupported, WorkerError
from harness.evaluation import run
from harness.evaluation.engine import EngineFacts, EngineJob
from harness.evaluation.messages import Failed
from harness.evaluation.outcomes import read_items
from harness.evaluation.parallel import ParallelEngine
from harness.evaluation.pieces import PieceSize
from harness.evaluation.reference import split_job
from harness.evaluation.worker import PARENT_IS_GONE
from tests.support.small_checkpoints import Recorder, publish_dataset
from tests.support.zoo import zoo_checkpoint

ROOT = Path(__file__).parents[2]
TASK = "wikitext2-maxctx"
WORKER = "harness.evaluation.worker"
SMALL_PIECES = """
import os, signal, sys
from harness.evaluation.pieces import PieceSize
from harness.evaluation.resuming import KeptOutcomes
from harness.serve import main

most = int(sys.argv[1])
write = KeptOutcomes.write

def write_and_die(kept):
    write(kept)
    if len(kept.items) >= most:
        os.kill(os.getpid(), signal.SIGKILL)

PieceSize.suiting = classmethod(lambda cls, *_, **__: cls(tokens=10**9, items=2))
KeptOutcomes.write = write_and_die
sys.exit(main())
"""
IDLE_PARENT = """
import sys, time
from pathlib import Path
from harness.contract import Device
from harness.evaluation.engine import EngineJob
from harness.evaluation.reference import split_job
from harness.evaluation.parallel import ParallelEngine
ParallelEngine(split_job(EngineJob(Path(sys.argv[1]), Device(threads=2), None, None), 2), print)
time.sleep(1000)
"""
PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    zoo_checkpoint("llama-gqa-small", folder / "model")
    days = [{"text": f" On day {day} it rained {day * day} drops , and the river rose .\n"} for day in range(900)]
    questions = [
        {
            "id": str(number),
            "question": f"How many stones are {number} stones?",
            "choices": {"text": [f"{number}", "none at all", "far more"], "label": ["A", "B", "C"]},
            "answerKey": "ABC"[number % 3],
        }
        for number in range(40)
    ]
    return {
        "checkpoint": str(folder / "model"),
        "dataset": str(publish_dataset(folder / "wikitext2", "wikitext2", {"test": days})),
        "questions": str(publish_dataset(folder / "arc_easy", "arc_easy", {"test": questions})),
    }


def evaluate(inputs: dict[str, str], output: Path, *, task: str = TASK, **parameters: Any) -> EvaluateResult:
    output.mkdir()
    used = inputs | {"dataset": inputs["questions"]} if task == "arc_easy" else inputs
    request = EvaluateRequest(
        id="test",
        device=Device(threads=parameters.get("processes", 1)),
        inputs=used,
        output=str(output),
        parameters=EvaluateParameters(task=task, **parameters),
    )
    return run(request, Recorder().reporter)


def start(inputs: dict[str, str], output: Path, *, most: int = 10**9, **parameters: Any) -> "subprocess.Popen[str]":
    """The same request to a worker of its own, which has pieces of two items, and is killed once it kept `most`."""
    output.mkdir(exist_ok=True)
    request = {
        "contract": 1,
        "id": "test",
        "operation": "evaluate",
        "device": {"threads": 1},
        "inputs": inputs,
        "output": str(output),
        "parameters": {"task": TASK, **parameters},
    }
    variables = {"LLMCBENCH_IMAGE": str(ROOT / "images" / "evaluate" / "image.toml"), "OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen(
        [sys.executable, "-c", SMALL_PIECES, str(most)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=os.environ | variables,
    )
    assert worker.stdin is not None
    worker.stdin.write(json.dumps(request))
    worker.stdin.close()
    return worker


def finish(worker: "subprocess.Popen[str]") -> EvaluateResult:
    """The result, once every line on stdout was found to be an event."""
    assert worker.stdout is not None
    *_, final = map(EVENT.validate_json, worker.stdout.read().splitlines())
    worker.wait()
    assert isinstance(final, ResultEvent), final
    assert isinstance(final.result, EvaluateResult)
    return final.result


def kept_items(output: Path) -> int:
    """Those that a killed worker left; its file begins with a head."""
    return (output / RESUME_NAME / "items.jsonl").read_bytes().count(b"\n") - 1


def wait_for(reached: Any) -> None:
    begin = time.monotonic()
    while not reached():
        assert time.monotonic() - begin < PATIENCE_SECONDS, "what was waited for never came"
        time.sleep(0.002)


def workers_of(parent: int) -> list[int]:
    """Evaluation processes that `parent` has started."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or WORKER not in (entry / "cmdline").read_text("utf-8", errors="replace"):
                continue
            if int((entry / "stat").read_text("utf-8").rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(entry.name))
    return found


def is_running(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def no_worker_is_left() -> Iterator[None]:
    yield
    assert workers_of(os.getpid()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("no_worker_is_left")
def test_two_processes_find_what_one_finds(inputs: dict[str, str], tmp_path: Path) -> None:
    one = evaluate(inputs, tmp_path / "one", task="arc_easy")
    two = evaluate(inputs, tmp_path / "two", task="arc_easy", processes=2)
    left, right = (read_items(tmp_path / name / "items.jsonl.zst", ChoiceItem) for name in ("one", "two"))
    assert [(item.index, item.document, item.picked, item.picked_norm) for item in right] == [
        (item.index, item.document, item.picked, item.picked_norm) for item in left
    ]
    for ours, theirs in zip(right, left, strict=True):
        assert ours.log_likelihoods == pytest.approx(theirs.log_likelihoods, rel=1e-5)
    assert two.metrics == one.metrics
    assert (one.items, two.items) == (40, 40)
    assert one.cost is not None
    assert two.cost is not None
    assert (one.cost.processes, two.cost.processes) == (1, 2)
    assert two.cost.asked_tokens == one.cost.asked_tokens > two.cost.computed_tokens > 0


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_with_the_items_that_are_left_even_in_other_processes(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PieceSize, "suiting", lambda *_, **__: PieceSize(tokens=10**9, items=2))
    whole = evaluate(inputs, tmp_path / "whole")
    output = tmp_path / "killed"
    with start(inputs, output, most=4) as killed:
        assert killed.wait() == -signal.SIGKILL
    kept = kept_items(output)
    resumed = finish(start(inputs, output, processes=2))
    assert (kept, kept < whole.items) == (4, True)
    assert resumed.cost is not None
    assert (resumed.cost.resumed_items, resumed.cost.processes) == (kept, 2)
    assert resumed.metrics == whole.metrics
    assert (output / whole.items_file).read_bytes() == (tmp_path / "whole" / whole.items_file).read_bytes()
    assert not (output / RESUME_NAME).exists()


def test_no_process_outlives_the_one_that_started_it(inputs: dict[str, str]) -> None:
    parent = subprocess.Popen([sys.executable, "-c", IDLE_PARENT, inputs["checkpoint"]], cwd=ROOT)
    workers: list[int] = []

    def both_work() -> bool:
        workers[:] = workers_of(parent.pid)
        return len(workers) == 2

    wait_for(both_work)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(is_running, workers)))


@pytest.mark.usefixtures("no_worker_is_left")
def test_a_process_that_is_killed_ends_the_evaluation_with_its_name(inputs: dict[str, str]) -> None:
    job = EngineJob(Path(inputs["checkpoint"]), Device(threads=2), None, None)
    with ParallelEngine(split_job(job, 2), print) as engine:
        os.kill(workers_of(os.getpid())[0], signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"evaluation process [12] on cpu was killed by SIGKILL") as death:
            engine.facts()
    assert "memory" in death.value.hint


@pytest.mark.usefixtures("no_worker_is_left")
def test_the_last_words_of_a_process_are_told(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"import os, sys\nif {WORKER!r} in sys.orig_argv:\n    os.write(1, b'no room today\\n')\n    os._exit(3)\n"
    (tmp_path / "sitecustomize.py").write_text(words, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(WorkerError, match=r"ended with status 3 before its work was done; .*: no room today"):
        evaluate(inputs, tmp_path / "output", processes=2)


@pytest.mark.slow
@pytest.mark.usefixtures("no_worker_is_left")
def test_what_a_process_cannot_do_is_told_as_by_this_one(inputs: dict[str, str], tmp_path: Path) -> None:
    job = EngineJob(tmp_path, Device(threads=2), None, None)
    with (
        ParallelEngine(split_job(job, 2), print) as engine,
        pytest.raises(BadCheckpoint, match=r"has no llmcbench\.json"),
    ):
        engine.facts()


def test_a_worker_without_a_parent_ends_by_itself() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    command = [sys.executable, "-m", WORKER, str(reader)]
    variables = os.environ | {"PYTHONPATH": str(harness_folder().parent)}
    worker = subprocess.run(command, pass_fds=(reader,), env=variables, timeout=PATIENCE_SECONDS, check=False)
    os.close(reader)
    assert worker.returncode == PARENT_IS_GONE


def test_a_failure_keeps_its_kind_reason_and_hint_between_processes() -> None:
    refused = Failed.of(Unsupported(Reason.SHAPE, "too long", hint="shorten it")).error()
    assert isinstance(refused, Unsupported)
    assert (refused.reason, refused.message, refused.hint) == (Reason.SHAPE, "too long", "shorten it")
    broken = Failed.of(BadCheckpoint("damaged", hint="fetch it again")).error()
    assert type(broken) is BadCheckpoint
    assert (broken.message, broken.hint) == ("damaged", "fetch it again")


def test_the_processor_is_shared_and_every_gpu_gets_processes_of_its_own() -> None:
    job = EngineJob(Path("model"), Device(threads=5), None, 64)
    assert [part.device.threads for part in split_job(job, 2)] == [2, 2]
    assert [part.device.threads for part in split_job(job, 9)] == [1] * 9
    assert split_job(job, 1) == (job,)
    gpus = EngineJob(Path("model"), Device(kind=DeviceKind.CUDA, uuids=("GPU-a", "GPU-b")), None, None)
    assert [part.device.uuids for part in split_job(gpus, 2)] == [("GPU-a",), ("GPU-a",), ("GPU-b",), ("GPU-b",)]
    unnamed = EngineJob(Path("model"), Device(kind=DeviceKind.CUDA), None, None)
    assert split_job(unnamed, 1) == (unnamed,)


def test_processes_that_load_side_by_side_take_as_long_as_the_slowest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(number: int, job: EngineJob) -> SimpleNamespace:
        facts = EngineFacts(Dtype.FLOAT32, "by a test", load_seconds=1.5 + number, quantization_note=None)
        return SimpleNamespace(facts=facts, connection=SimpleNamespace(close=lambda: None), stop=lambda: None)

    monkeypatch.setattr("harness.evaluation.parallel._Worker", loaded)
    jobs = split_job(EngineJob(tmp_path, Device(threads=3), None, None), 3)
    facts = ParallelEngine(jobs, print).facts()
    assert (facts.load_seconds, facts.processes) == (3.5, 3)
