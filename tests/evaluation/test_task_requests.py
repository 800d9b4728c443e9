"""Which tasks there are, and what is said when a request cannot be done."""

import importlib.metadata
import tomllib
from pathlib import Path
from typing import Any

import pytest

from harness.contract import EvaluateParameters, EvaluateRequest, ImageDescription, Reason, tasks
from harness.contract.tasks import (
    TASKS_FOLDER,
    AnswersTask,
    AttackedTask,
    ChoiceTask,
    TruthTask,
    WordPerplexityTask,
    describe_task,
    load_tasks,
)
from harness.errors import BadRequest, MissingData, Unsupported
from harness.evaluation import run
from harness.evaluation.definitions import ModelFacts, prepare
from harness.evaluation.definitions.lm_eval_task import tasks_folder
from harness.evaluation.tasks import find_task
from orchestrator.errors import BadImage
from orchestrator.images.catalog import ImageCatalog
from tests.support.small_checkpoints import Recorder, byte_tokenizer, publish_checkpoint, publish_dataset, small_model

IMAGES = Path(__file__).parents[2] / "images"
LM_EVAL_TASKS = ChoiceTask | AttackedTask | TruthTask | AnswersTask | WordPerplexityTask


def request(tmp_path: Path, task: str, **inputs: Path) -> EvaluateRequest:
    return EvaluateRequest(
        id="test",
        inputs={name: str(path) for name, path in inputs.items()},
        output=str(tmp_path),
        parameters=EvaluateParameters(task=task),
    )


def test_the_evaluating_image_offers_the_tasks_that_the_harness_defines_as_they_are_defined() -> None:
    offered = {name: task for name, (image, task) in ImageCatalog(IMAGES).tasks.items() if image.name == "evaluate"}
    assert offered == {name: describe_task(task) for name, task in load_tasks().items()}
    assert {name for name, task in offered.items() if not task.higher_is_better} == {
        name for name, task in offered.items() if task.metric.endswith("perplexity")
    }


def test_a_definition_that_is_none_is_refused_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "short.yaml").write_text("kind: perplexity\nname: short\n", encoding="utf-8")
    monkeypatch.setattr(tasks, "TASKS_FOLDER", tmp_path)
    with pytest.raises(BadImage, match=r"short\.yaml is not the definition of a task"):
        _ = ImageCatalog(IMAGES).tasks


def test_every_task_reads_splits_that_the_fetch_image_knows() -> None:
    fetch = ImageDescription.model_validate(tomllib.loads((IMAGES / "fetch" / "image.toml").read_text("utf-8")))
    known = {dataset.name: dataset.splits.keys() for dataset in fetch.datasets}
    assert all(set(task.splits) <= known[task.dataset] for task in load_tasks().values())


def test_tasks_and_protocols_have_one_name_each() -> None:
    tasks = load_tasks().values()
    assert len({task.protocol for task in tasks}) == len(tasks)
    assert {path.stem for path in TASKS_FOLDER.glob("*.yaml")} == {task.name for task in tasks}


def definitions_of(task: ChoiceTask | AttackedTask | TruthTask | AnswersTask | WordPerplexityTask) -> list[str]:
    if isinstance(task, AttackedTask):
        return list(task.parts.values())
    if isinstance(task, TruthTask):
        return [task.mc1_definition, task.mc2_definition]
    return [task.definition.format(group="anatomy")]


@pytest.mark.parametrize("task", [task for task in load_tasks().values() if isinstance(task, LM_EVAL_TASKS)])
def test_every_task_of_lm_evals_names_definitions_of_the_installed_one(
    task: ChoiceTask | AttackedTask | TruthTask | AnswersTask | WordPerplexityTask,
) -> None:
    assert all((tasks_folder() / definition).is_file() for definition in definitions_of(task))
    assert task.protocol.endswith(f"@lm-eval-{importlib.metadata.version('lm-eval')}")


def test_an_unknown_task_is_unsupported_and_the_nearest_is_named() -> None:
    with pytest.raises(Unsupported, match=r"there is no task 'arc_esy'; did you mean 'arc_easy'\?") as refusal:
        find_task("arc_esy")
    assert refusal.value.reason is Reason.TASK


def test_another_lm_eval_than_the_protocol_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9.9")
    facts = ModelFacts(byte_tokenizer(), 128, 264)
    for name in ("piqa", "advglue", "truthfulqa", "truthfulqa-paper", "wikitext2-words"):
        task = find_task(name)
        rows = {split: [{"text": ""}] for split in task.splits}
        with pytest.raises(Unsupported, match=r"lm-eval 0\.4\.13, but 9\.9\.9 is installed"):
            prepare(task, rows, facts)


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="evaluate needs the input 'dataset'; the request names: none"):
        run(request(tmp_path, "arc_easy"), Recorder().reporter)


def test_a_data_set_of_another_name_is_refused(tmp_path: Path) -> None:
    data = publish_dataset(tmp_path / "data", "piqa", {"test": [{"goal": "x"}]})
    with pytest.raises(BadRequest, match="needs the data set 'arc_easy', but the input is 'piqa'"):
        run(request(tmp_path, "arc_easy", dataset=data), Recorder().reporter)


@pytest.mark.parametrize(
    "splits", [{"validation": [{"question": "x"}]}, {"validation": [{"question": "x"}], "test": []}]
)
def test_a_data_set_without_the_split_is_missing_data(tmp_path: Path, splits: dict[str, Any]) -> None:
    data = publish_dataset(tmp_path / "data", "arc_easy", splits)
    with pytest.raises(MissingData, match="no rows of the split 'test'; it has: validation"):
        run(request(tmp_path, "arc_easy", dataset=data), Recorder().reporter)


def test_a_whole_perplexity_request_is_answered(tmp_path: Path) -> None:
    long = small_model("llama")
    long.config.max_position_embeddings = 2048
    checkpoint = publish_checkpoint(tmp_path / "model", long)
    data = publish_dataset(tmp_path / "data", "wikitext2", {"test": [{"text": "It rained again . " * 130}]})
    result = run(request(tmp_path, "wikitext2-1024", dataset=data, checkpoint=checkpoint), Recorder().reporter)
    assert (result.protocol, result.metric, result.items) == ("ppl/wikitext2-1024", "perplexity", 2)
    assert result.metrics["perplexity"] > 1
    assert result.dataset_origin == "made by a test"
    assert (tmp_path / result.items_file).is_file()
