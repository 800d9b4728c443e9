"""A stored run in lm-evaluation-harness's files: its own readers take them, with the figures of `score`."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import BadManifest
from tests.exchange.stored import export, figures_of_score, unpacked


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("stored"))


@pytest.fixture(scope="module")
def exported(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(store, folder, "lm-eval")
    return folder


@pytest.fixture(scope="module")
def documents(exported: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text("utf-8")) for path in exported.glob("*/results_*.json")]
    return {document["model_name"]: document for document in found}


def test_every_figure_is_that_of_score(store: Path, documents: dict[str, Any]) -> None:
    wanted = figures_of_score(store)
    assert len(wanted) == 64
    found = {
        (name, task): document["results"][task][f"{document['configs'][task]['metadata']['metric']},none"]
        for name, document in documents.items()
        for task in document["configs"]
    }
    assert found == wanted


def test_the_outcomes_of_the_samples_give_the_figures(exported: Path, documents: dict[str, Any]) -> None:
    for document in documents.values():
        folder = exported / document["model_name_sanitized"]
        for task in ("arc_easy", "truthfulqa"):
            (path,) = folder.glob(f"samples_{task}_*.jsonl")
            lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            assert len(lines) == document["n-samples"][task]["effective"]
            for metric in lines[0]["metrics"]:
                mean = sum(line[metric] for line in lines) / len(lines)
                assert mean == pytest.approx(document["results"][task][f"{metric},none"], rel=1e-12)


def test_lm_eval_reads_its_own_names_and_prints_its_own_table(exported: Path, documents: dict[str, Any]) -> None:
    utils = pytest.importorskip("lm_eval.utils")
    paths = [path.as_posix() for path in exported.rglob("*") if path.is_file()]
    assert len(utils.get_results_filenames(paths)) == len(documents) == 16
    samples = [Path(path).name for path in utils.get_sample_results_filenames(paths)]
    assert {utils.get_file_task_name(name) for name in samples} == set(documents["opt/dense"]["configs"])
    dense = documents["opt/dense"]
    (results,) = [path for path in paths if "/opt__dense/results_" in path]
    assert utils.get_latest_filename([results]) == results
    table = utils.make_table(dense)
    assert f"{dense['results']['arc_easy']['acc_norm,none']:.4f}|±  |" in table.replace(" ", "").replace("±|", "±  |")
    assert "choice/arc_easy@lm-eval-0.4.13" in table


def test_what_is_not_stored_is_said_and_not_made_up(exported: Path, documents: dict[str, Any]) -> None:
    document = documents["opt/gptq-W4A16g64"]
    assert any("prompts" in reason for reason in document["llmcbench"]["absent"])
    assert not {"random_seed", "batch_size"} & document["config"].keys()
    assert document["config"]["model_args"]["method"] == "gptq"
    line = json.loads(next((exported / "opt__gptq-W4A16g64").glob("samples_arc_easy_*")).read_text().splitlines()[0])
    assert not {"arguments", "doc_hash", "prompt_hash", "target_hash"} & line.keys()
    assert [len(response) for response in line["filtered_resps"]] == [1, 1, 1, 1]


def test_the_same_run_gives_the_same_bytes(store: Path, exported: Path, tmp_path: Path) -> None:
    export(store, tmp_path, "lm-eval")
    for path in exported.rglob("*.json*"):
        assert (tmp_path / path.relative_to(exported)).read_bytes() == path.read_bytes()


def test_a_folder_has_to_be_named(store: Path) -> None:
    with pytest.raises(BadManifest, match="no folder"):
        CliRunner().invoke(app, ["export", "last", "--store", str(store)], catch_exceptions=False)
