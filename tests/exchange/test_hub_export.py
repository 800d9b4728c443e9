"""The Hub's `.eval_results` files of a stored run, read by huggingface_hub's own parser."""

from pathlib import Path

import pytest
from huggingface_hub import parse_eval_result_entries
from ruamel.yaml import YAML
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import BadManifest
from tests.exchange.stored import export, figures_of_score, unpacked


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("stored"))


def test_one_entry_a_task_with_the_figures_of_score(store: Path, tmp_path: Path) -> None:
    export(store, tmp_path, "hub", "--source-url", "https://example.org/report", "--source-name", "report")
    figures = figures_of_score(store)
    found = {}
    for (name, task), figure in figures.items():
        path = tmp_path / name.replace("/", "__").replace(":", "__") / ".eval_results" / f"{task}.yaml"
        (entry,) = parse_eval_result_entries(YAML(typ="safe").load(path))
        found[name, task] = entry
        assert (entry.task_id, entry.value) == (task, figure)
    assert len(list(tmp_path.rglob("*.yaml"))) == len(figures) == 64
    entry = found["opt/gptq-W4A16g64", "arc_easy"]
    assert entry.dataset_id == "allenai/ai2_arc"
    assert (entry.source_url, entry.source_name) == ("https://example.org/report", "report")
    assert entry.dataset_revision is None, "these rows came from local files"
    assert entry.notes.startswith(
        "gptq W4A16g64 of dir:tests/zoo/opt; acc_norm, protocol choice/arc_easy@lm-eval-0.4.13"
    )
    assert "40 of 2376 items" in entry.notes


def test_a_source_needs_an_address(store: Path, tmp_path: Path) -> None:
    command = ["export", "--format", "hub", "-o", str(tmp_path), "--source-name", "report", "--store", str(store)]
    with pytest.raises(BadManifest, match="no address"):
        CliRunner().invoke(app, command, catch_exceptions=False)
