"""Work that a fork of a process with its imports ready may do comes to what a fresh process makes of it."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.contract import (
    ARTIFACT_NAME,
    CheckpointFormat,
    CompressParameters,
    Device,
    EvaluateParameters,
    ExportParameters,
    FetchParameters,
    FidelityParameters,
    HubModel,
    Operation,
    Parameters,
    ProfileParameters,
    ResultEvent,
    Setting,
    StatesParameters,
    TextFile,
    operation_module,
)
from harness.evaluation.tasks import find_task
from orchestrator.images.catalog import ImageCatalog
from orchestrator.runtime import process
from orchestrator.runtime.base import Completed, Invocation
from orchestrator.runtime.environments import Environments, WorkerEnvironment
from orchestrator.runtime.process import RUNNING_NAME, ProcessRuntime
from orchestrator.runtime.warm import modules_of
from tests.support.small_checkpoints import publish_dataset
from tests.support.stored_zoo import quantize, stored
from tests.support.task_rows import made_rows
from tests.support.zoo import zoo_checkpoint

CATALOG = ImageCatalog(Path(__file__).parents[2] / "images")
MEASURED = {"wall_seconds", "cost", "load_seconds", "score_seconds"}
"""What no two processes agree on."""


@dataclass(frozen=True)
class Work:
    image: str
    operation: Operation
    parameters: Parameters
    inputs: dict[str, str]


@dataclass(frozen=True)
class Here(WorkerEnvironment):
    """The tests' own environment, with a folder for bytecode that is a worker's."""

    own: Path

    @property
    def bytecode(self) -> Path:
        return self.own


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inputs")
    zoo_checkpoint("llama-gqa-small", root / "dense")
    quantize(root / "dense", root / "packed", stored(CheckpointFormat.PACK_QUANTIZED, 4, symmetric=True))
    for task in ("arc_easy", "wikitext2-maxctx"):
        name = find_task(task).dataset
        rows = {split: made_rows(name, split) * 4 for split in sorted(find_task(task).splits)}
        publish_dataset(root / name, name, rows)
    return {path.name: path for path in root.iterdir()}


def works(folders: dict[str, Path]) -> dict[str, Work]:
    read = {"checkpoint": "dense", "dataset": "wikitext2"}
    return {
        "export": Work(
            "export",
            Operation.EXPORT,
            ExportParameters(target=CheckpointFormat.DENSE),
            {"checkpoint": "packed"},
        ),
        "choices": Work(
            "evaluate",
            Operation.EVALUATE,
            EvaluateParameters(task="arc_easy", limit=4),
            {"checkpoint": "packed", "dataset": "arc_easy"},
        ),
        "perplexity": Work("evaluate", Operation.EVALUATE, EvaluateParameters(task="wikitext2-maxctx", limit=4), read),
        "states": Work("evaluate", Operation.STATES, StatesParameters(task="wikitext2-maxctx", limit=4), read),
        "fidelity": Work(
            "evaluate",
            Operation.FIDELITY,
            FidelityParameters(task="wikitext2-maxctx"),
            {"checkpoint": "packed", "states": "kept"},
        ),
    }


def invocation(work: Work, folders: dict[str, Path], folder: Path) -> Invocation:
    folder.mkdir(parents=True)
    return Invocation(
        image=CATALOG.images[work.image],
        operation=work.operation,
        parameters=work.parameters,
        folder=folder,
        stage="stage",
        run="run",
        inputs={name: folders[there] for name, there in work.inputs.items()},
        device=Device(threads=1),
    )


@pytest.fixture
def runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ProcessRuntime]]:
    here = Here(Path(sys.prefix), "lock", "cp311", tmp_path / "bytecode")
    monkeypatch.setattr(Environments, "find", lambda *_: here)
    (tmp_path / "store").mkdir()
    with closing(ProcessRuntime(tmp_path / "store", warm=True)) as warm:
        yield {"fresh": ProcessRuntime(tmp_path / "store"), "warm": warm}
    assert list((tmp_path / "store" / RUNNING_NAME).iterdir()) == []


def stable(value: Any) -> Any:
    """A document without what is measured."""
    if isinstance(value, dict):
        return {name: stable(one) for name, one in value.items() if name not in MEASURED}
    return [stable(one) for one in value] if isinstance(value, list) else value


def left_by(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "result.json"}


@pytest.mark.slow
def test_warm_workers_leave_what_fresh_ones_do_byte_for_byte(
    folders: dict[str, Path], runtimes: dict[str, ProcessRuntime], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {**folders, "kept": tmp_path / "fresh" / "states" / "out" / ARTIFACT_NAME}
    finals: dict[str, list[Any]] = {"fresh": [], "warm": []}
    for kind, runtime in runtimes.items():
        if kind == "warm":
            monkeypatch.setattr(process, "StartedWorker", None)
        for name, work in works(folders).items():
            done: Completed = runtime.run(
                invocation(work, folders, tmp_path / kind / name), lambda event: None, threading.Event()
            )
            assert isinstance(done.final, ResultEvent), (kind, name, done)
            assert done.exit_code == 0
            finals[kind].append(stable(json.loads(done.final.model_dump_json())))
    assert finals["warm"] == finals["fresh"]
    for name in works(folders):
        assert left_by(tmp_path / "warm" / name / "out") == left_by(tmp_path / "fresh" / name / "out"), name


def test_what_may_be_warm_names_its_modules_and_the_rest_is_fresh(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, work in works(folders).items():
        modules = modules_of(invocation(Work(work.image, work.operation, work.parameters, {}), {}, tmp_path / name))
        assert operation_module(work.operation) in modules
        assert not [one for one in modules if one.endswith("__main__")]
    pruning = CompressParameters(method="magnitude", setting=Setting.parse("50%"))
    text = FetchParameters(source=TextFile(file="text.txt", sha256="0" * 64))
    on_hub = FetchParameters(source=HubModel(repository="a/b", revision="0" * 40))
    by_engine = EvaluateParameters(task="arc_easy", engine="vllm")
    fresh = {
        "timed": Work("magnitude", Operation.COMPRESS, pruning, {}),
        "profile": Work("evaluate", Operation.PROFILE, ProfileParameters(), {}),
        "engine": Work("vllm", Operation.EVALUATE, by_engine, {}),
        "fetch": Work("fetch", Operation.FETCH, text, {}),
        "network": Work("fetch", Operation.FETCH, on_hub, {}),
    }
    for name, work in fresh.items():
        assert modules_of(invocation(work, {}, tmp_path / name)) == (), name
    gpu = invocation(works(folders)["states"], {"dense": tmp_path, "wikitext2": tmp_path}, tmp_path / "gpu")
    on_gpu = Invocation(**{**vars(gpu), "device": Device(kind="cuda", uuids=("GPU-1",))})
    assert modules_of(on_gpu) == ()
