"""What a worker really loads of the harness is in the source that its key is made of, for every operation."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.contract import (
    ARTIFACT_NAME,
    EVENT,
    REQUEST,
    CheckpointFormat,
    DescribeRequest,
    Device,
    ImageDescription,
    Operation,
    ResultEvent,
    Setting,
    StatesParameters,
    StatesRequest,
    WorkRequest,
    digest_file,
    digest_tree,
    export_module,
    operation_module,
    work_source,
)
from harness.evaluation.tasks import find_task
from harness.fidelity import keeping
from orchestrator.images.catalog import ImageCatalog
from tests.support.small_checkpoints import Recorder, publish_checkpoint, publish_dataset, small_model
from tests.support.stored_zoo import quantize, stored, with_zeros
from tests.support.task_rows import made_rows
from tests.support.zoo import zoo_checkpoint, zoo_folder

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
CATALOG = ImageCatalog(ROOT / "images")
PATIENCE_SECONDS = 1200
SETTINGS = {"wanda": "2:4", "llm-pruner": "25%", "gptq": "W4A16g16", "awq": "W4A16g16", "omniquant": "W4A16g16"}
"""What the small model's widths allow, where they do not allow a method's own setting."""
NOT_INSTALLED = {"llmcompressor", "gptqmodel", "vllm", "llama-cpp", "gguf"}
"""Images whose libraries the tests do without: their workers come as far as the first import of one."""
DATA = {
    "wikitext2-maxctx": "wikitext2",
    "wikitext2-words": "wikitext2",
    "arc_easy": "arc_easy",
    "mmlu-5shot": "mmlu",
    "truthfulqa": "truthfulqa",
    "truthfulqa-paper": "truthfulqa",
    "qnli-letter": "qnli",
    "advglue": "adv_glue",
}
"""A task of every kind, and the data set that it reads."""
EXPORTS = {
    CheckpointFormat.DENSE: "packed",
    CheckpointFormat.PACK_QUANTIZED: "gptq",
    CheckpointFormat.GPTQ: "packed",
    CheckpointFormat.AWQ: "packed",
    CheckpointFormat.MODELOPT_AWQ: "packed",
    CheckpointFormat.MODELOPT_FP8: "model",
}


@dataclass(frozen=True)
class Work:
    """`module` is what the request and the image's description name; `inputs` are folders made by `inputs`."""

    image: str
    operation: Operation
    parameters: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    module: str | None = None
    answers: bool = True


@dataclass(frozen=True)
class Served:
    """`loaded` are names of modules, and of files below the project."""

    request: WorkRequest
    image: ImageDescription
    loaded: frozenset[str]
    final: Any


def compressions() -> dict[str, Work]:
    calibration = {"dataset": "c4", "samples": 2, "sequence_length": 16, "seed": 0}
    works = {}
    for name, (image, method) in CATALOG.methods.items():
        setting = Setting.parse(SETTINGS.get(name, method.default_setting)).model_dump(mode="json")
        calibrated = method.calibration is not None
        works[f"compress-{name}"] = Work(
            image.name,
            Operation.COMPRESS,
            {"method": name, "setting": setting} | ({"calibration": calibration} if calibrated else {}),
            {"checkpoint": "model"} | ({"calibration": "c4"} if calibrated else {}),
            module=method.module,
            answers=image.name not in NOT_INSTALLED,
        )
    return works


def evaluations() -> dict[str, Work]:
    works = {
        f"evaluate-{task}": Work(
            "evaluate",
            Operation.EVALUATE,
            {"task": task, "limit": 4},
            {"checkpoint": "model", "dataset": dataset},
        )
        for task, dataset in DATA.items()
    }
    several = Work(
        "evaluate",
        Operation.EVALUATE,
        {"task": "arc_easy", "processes": 2},
        {"checkpoint": "packed", "dataset": "arc_easy"},
    )
    deployed = {
        f"evaluate-with-{name}": Work(
            image.name,
            Operation.EVALUATE,
            {"task": "arc_easy", "engine": name},
            {"checkpoint": "model", "dataset": "arc_easy"},
            module=backend.module,
            answers=False,
        )
        for name, (image, backend) in CATALOG.backends.items()
        if backend.scores
    }
    return works | deployed | {"evaluate-in-processes": several}


def benchmarks() -> dict[str, Work]:
    short = {"prompt_tokens": 8, "generate_tokens": 4, "batch_sizes": [1], "repeats": 2}

    def work(name: str, checkpoint: str) -> Work:
        image, backend = CATALOG.backends[name]
        asked, inputs = {"backend": name, **short}, {"checkpoint": checkpoint}
        answers = image.name not in NOT_INSTALLED
        return Work(image.name, Operation.BENCHMARK, asked, inputs, module=backend.module, answers=answers)

    every = {f"benchmark-{name}": work(name, "plain") for name in CATALOG.backends}
    return every | {f"benchmark-{form}": work("native", form) for form in ("zeros", "packed", "int8")}


def fetches() -> dict[str, Work]:
    return {
        "fetch-model": Work("fetch", Operation.FETCH, {"source": {"kind": "directory"}}, {"source": "folder"}),
        "fetch-dataset": Work(
            "fetch", Operation.FETCH, {"source": {"kind": "dataset", "name": "arc_easy"}}, {"source": "local"}
        ),
        "fetch-text": Work(
            "fetch", Operation.FETCH, {"source": {"kind": "text-file", "file": "text.txt"}}, {"source": "local"}
        ),
    }


WORKS = {
    **fetches(),
    **compressions(),
    **{
        f"export-{target.name.lower()}": Work(
            "export",
            Operation.EXPORT,
            {"target": target.value},
            {"checkpoint": source},
            module=export_module(target),
            answers=target is not CheckpointFormat.MODELOPT_AWQ,
        )
        for target, source in EXPORTS.items()
    },
    **evaluations(),
    "states": Work(
        "evaluate",
        Operation.STATES,
        {"task": "wikitext2-maxctx", "limit": 4},
        {"checkpoint": "model", "dataset": "wikitext2"},
    ),
    "fidelity": Work(
        "evaluate", Operation.FIDELITY, {"task": "wikitext2-maxctx"}, {"checkpoint": "packed", "states": "states"}
    ),
    "profile": Work(
        "evaluate",
        Operation.PROFILE,
        {"macs_tokens": 8, "prompt_tokens": 8, "generate_tokens": 4},
        {"checkpoint": "model"},
    ),
    **benchmarks(),
}


pytestmark = pytest.mark.slow
"""Everything is served once for all of these tests."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every folder that a work reads, by its name."""
    root = tmp_path_factory.mktemp("inputs")
    dense = root / "model"
    zoo_checkpoint("llama-gqa-small", dense)
    publish_checkpoint(root / "plain", small_model("llama"))
    quantize(dense, root / "packed", stored(CheckpointFormat.PACK_QUANTIZED, 4, symmetric=True))
    quantize(dense, root / "gptq", stored(CheckpointFormat.GPTQ, 4, symmetric=True))
    quantize(dense, root / "int8", stored(CheckpointFormat.INT_QUANTIZED, 8, symmetric=True, activation_bits=8))
    with_zeros(dense, root / "zeros")
    text = "the old oak stands by the water and the jay flies over the snow "
    publish_dataset(root / "c4", "c4", {"train": [{"text": text * (2 + number)} for number in range(8)]})
    for dataset in set(DATA.values()):
        splits = {split for task, name in DATA.items() if name == dataset for split in find_task(task).splits}
        times = 4 if dataset == "wikitext2" else 1  # a whole segment of the model's context
        publish_dataset(root / dataset, dataset, {split: made_rows(dataset, split) * times for split in sorted(splits)})
    shutil.copytree(zoo_folder("llama-gqa-small"), root / "folder")
    keep_states(dense, root / "wikitext2", root / "states")
    (root / "local").mkdir()
    (root / "local" / "text.txt").write_text(text * 9, encoding="utf-8")
    return {path.name: path for path in root.iterdir()}


def keep_states(checkpoint: Path, dataset: Path, folder: Path) -> None:
    request = StatesRequest(
        id="made",
        device=Device(threads=1),
        inputs={"checkpoint": str(checkpoint), "dataset": str(dataset)},
        output=str(folder.with_name("states-made")),
        parameters=StatesParameters(task="wikitext2-maxctx", limit=4),
    )
    Path(request.output).mkdir()
    keeping.run(request, Recorder().reporter)
    Path(request.output, ARTIFACT_NAME).rename(folder)


@pytest.fixture(scope="module")
def served(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    """Every work, served once."""
    root = tmp_path_factory.mktemp("served")
    entries, works = [], {}
    for name, work in WORKS.items():
        folder = root / name
        (folder / "out").mkdir(parents=True)
        image = folder / "image.toml"
        text = (CATALOG.images[work.image].description_path).read_text(encoding="utf-8")
        image.write_text(text.replace('devices = ["cuda"]', 'devices = ["cpu"]'), encoding="utf-8")
        request = request_of(name, work, folders, folder / "out")
        (folder / "request.json").write_text(request.model_dump_json(), encoding="utf-8")
        (folder / "loaded").touch()
        entries.append(
            {one: str(folder / one) for one in ("loaded", "said")}
            | {"request": str(folder / "request.json"), "image": str(image)}
        )
        works[name] = request
    (root / "entries.json").write_text(json.dumps(entries), encoding="utf-8")
    variables = {
        "PYTHONPATH": os.pathsep.join(map(str, (SUPPORT / "loaded_source", SUPPORT / "vendor_fakes", ROOT))),
        "LLMCBENCH_TEST_ROOT": str(ROOT),
        "FAKE_ENGINE_RECORD": str(root / "asked.jsonl"),
    }
    command = [sys.executable, str(SUPPORT / "loaded_source" / "serve_each.py"), str(root / "entries.json")]
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return {name: read(root / name, request, WORKS[name]) for name, request in works.items()}


def request_of(name: str, work: Work, folders: dict[str, Path], output: Path) -> WorkRequest:
    parameters = dict(work.parameters)
    if source := dict(parameters.get("source", {})):
        text = folders["local"] / "text.txt"
        added = {"directory": {"tree": digest_tree(folders["folder"])}, "text-file": {"sha256": digest_file(text)}}
        parameters["source"] = source | added.get(source["kind"], {})
    request = REQUEST.validate_python(
        {
            "id": name,
            "operation": work.operation.value,
            "inputs": {one: str(folders[folder]) for one, folder in work.inputs.items()},
            "output": str(output),
            "device": {"threads": work.parameters.get("processes", 1)},
            "parameters": parameters,
        }
    )
    assert not isinstance(request, DescribeRequest)
    return request


def read(folder: Path, request: WorkRequest, work: Work) -> Served:
    events = [EVENT.validate_json(line) for line in (folder / "said").read_bytes().splitlines()]
    loaded = (folder / "loaded").read_text(encoding="utf-8").splitlines()
    return Served(request, CATALOG.images[work.image].description, frozenset(loaded), events[-1])


def file_of(name: str) -> str | None:
    """The file of a module, or of data, below the project; None for a name that turned out to be no module."""
    path = ROOT.joinpath(*name.split("."))
    for found in (ROOT / name, path / "__init__.py", path.with_suffix(".py")):
        if found.is_file():
            return found.relative_to(ROOT).as_posix()
    return None


@pytest.mark.parametrize("name", WORKS)
def test_what_a_worker_loads_is_in_the_source_that_its_key_is_made_of(name: str, served: dict[str, Served]) -> None:
    work, one = WORKS[name], served[name]
    assert isinstance(one.final, ResultEvent) == work.answers, one.final
    assert {"harness.__main__", operation_module(work.operation), work.module} <= {*one.loaded, None}
    source = work_source(one.image, work.operation, one.request.parameters)
    loaded = {file for file in map(file_of, one.loaded) if file}
    assert not loaded - source.keys()


def test_every_operation_method_and_backend_is_served_here() -> None:
    works = list(WORKS.values())
    assert {work.operation for work in works} == set(Operation) - {Operation.DESCRIBE}
    assert {work.parameters["method"] for work in works if "method" in work.parameters} == CATALOG.methods.keys()
    assert {work.parameters["backend"] for work in works if "backend" in work.parameters} == CATALOG.backends.keys()


def test_an_evaluation_in_several_processes_has_loaded_the_worker_of_each(served: dict[str, Served]) -> None:
    assert "harness.evaluation.worker" in served["evaluate-in-processes"].loaded


def test_the_file_of_a_task_is_seen_to_be_read(served: dict[str, Served]) -> None:
    files = {name for name in served["evaluate-arc_easy"].loaded if name.endswith(".yaml")}
    assert files == {"harness/evaluation/tasks/arc_easy.yaml"}
