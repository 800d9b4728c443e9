"""What commands print for other programs: one document on stdout, and tables as wide as they are asked to be."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import BadManifest
from orchestrator.report import RunReport
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import Bench
from tests.support.stage_workers import keeping_worker

METHOD = ("--method", "wanda", "--runtime", "process", "--device", "cpu")


def printed(*arguments: str) -> str:
    return CliRunner().invoke(app, arguments, catch_exceptions=False).stdout


@pytest.mark.parametrize("dry_run", [True, False])
def test_clean_says_what_it_removes_as_a_document(bench: Bench, dry_run: bool) -> None:
    bench.run(FakeRuntime(keeping_worker))
    (bench.root / "runs").rename(bench.root / "elsewhere")
    document = json.loads(printed("clean", "--json", "--store", str(bench.root), *(["--dry-run"] if dry_run else [])))
    assert document["dry_run"] is dry_run
    assert document["removed"] != []
    assert document["freed_bytes"] == sum(one["size_bytes"] for one in document["removed"]) > 0
    assert document["unreadable"] == []


def test_a_report_goes_to_stdout_in_one_form_and_writes_nothing(bench: Bench) -> None:
    record = bench.run(FakeRuntime(keeping_worker))
    before = sorted(bench.root.rglob("*"))
    text = printed("report", "last", "-f", "json", "-o", "-", "--store", str(bench.root))
    document = RunReport.model_validate_json(text)
    assert (document.schema_version, document.run_id) == (2, record.run)
    assert {stage.status.value for stage in document.stages} == {"done"}
    assert printed("report", "-f", "markdown", "-o", "-", "--store", str(bench.root)).startswith("# ")
    assert sorted(bench.root.rglob("*")) == before
    with pytest.raises(BadManifest, match="one report of one run at a time"):
        printed("report", "last", "-o", "-", "--store", str(bench.root))


def test_a_dry_run_of_bench_is_its_plan(tmp_path: Path) -> None:
    stages = printed("bench", *METHOD, "--dry-run", "--json", "--store", str(tmp_path / "store")).splitlines()
    names = [json.loads(line)["id"] for line in stages]
    assert "compress/smollm2-135m/wanda-50%" in names
    text = printed("bench", *METHOD, "-n", "--store", str(tmp_path / "store"))
    assert [line.split()[2] for line in text.splitlines() if line.startswith("to run")] == names
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(("columns", "widest"), [("60", 60), (None, 120)])
def test_tables_are_as_wide_as_columns_says(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, columns: str | None, widest: int
) -> None:
    bench.run(FakeRuntime(keeping_worker))
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    width = max(map(len, printed("score", "--resamples", "100", "--store", str(bench.root)).splitlines()))
    assert widest / 2 < width <= widest
