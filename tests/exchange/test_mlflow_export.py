"""MLflow's runs of a stored run: one a variant, in SQLite, with the figures of `score`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import RuntimeUnavailable
from tests.exchange.stored import call, figures_of_score, unpacked


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("stored"))


def test_without_mlflow_the_extra_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow.exceptions", None)
    command = ["export", "--format", "mlflow", "--tracking-uri", "sqlite:///none.db", "--store", str(store)]
    with pytest.raises(RuntimeUnavailable) as refused:
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert "llmcbench[mlflow]" in refused.value.hint


@pytest.mark.slow  # MLflow makes its database by all of its migrations
def test_one_run_a_variant_with_the_figures_of_score(store: Path, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="the extra mlflow is not installed")
    pytest.importorskip("alembic", reason="the extra mlflow is not installed")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    call(store, "export", "last", "--format", "mlflow", "--tracking-uri", uri)
    client = tracking.MlflowClient(tracking_uri=uri)
    (experiment,) = client.search_experiments(filter_string="name LIKE 'stored-%'")
    runs = {run.info.run_name: run.data for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 16
    for (name, task), figure in figures_of_score(store).items():
        found = {value for metric, value in runs[name].metrics.items() if metric.endswith(f"/{task}")}
        assert found == {figure}
    data = runs["opt/gptq-W4A16g64"]
    assert (data.params["method"], data.params["setting"]) == ("gptq", "W4A16g64")
    assert data.tags["llmcbench.results"] == str(store / "runs" / experiment.name)
    assert data.metrics["track4/size/disk_bytes"] > 0
