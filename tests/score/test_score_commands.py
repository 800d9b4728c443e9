"""`orchestrator score` and `orchestrator compare`, on runs whose workers keep the outcomes of their items."""

import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.contract import EvaluateResult, ProfileResult, WorkRequest, WorkResult
from orchestrator.cli.app import app
from orchestrator.errors import BadManifest, CommandExit
from orchestrator.evidence.categories import Category
from orchestrator.evidence.value import Values
from orchestrator.report import RunReport, render_html, render_markdown, summary_text
from orchestrator.report.building import build_report
from orchestrator.score.claims import RunClaims, Verdict
from orchestrator.score.comparison import Comparison
from orchestrator.score.scores import RunScores
from orchestrator.tracks import Track
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST
from tests.support.stage_workers import ITEMS, keeping_worker, with_items


@pytest.fixture
def ask(bench):
    """Runs a command on the store of one finished run and returns what it prints."""
    bench.run(FakeRuntime(keeping_worker))

    def command(*arguments: str) -> str:
        found = CliRunner().invoke(app, [*arguments, "--store", str(bench.root)], catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return found.stdout

    return command


def test_score_prints_metrics_values_and_intervals(ask):
    text = ask("score", "last")
    assert "Overall metrics of small-" in text
    assert "OM_perf" in text
    assert "arc_easy" in text
    assert "50.00 %" in text
    assert "Square brackets hold 95 % intervals, from 10000 resamples" in text
    assert "one round: no interval" in text
    assert max(map(len, text.splitlines())) <= 120


def test_score_as_json_is_the_documented_document(ask):
    document = RunScores.model_validate_json(ask("score", "last", "--json", "--resamples", "300", "--seed", "7"))
    assert (document.resampling.resamples, document.resampling.seed) == (300, 7)
    pruned = next(one for one in document.scores if one.variant.method == "sparsegpt" and one.track == 2)
    assert pruned.value == pytest.approx(100 * math.exp(-0.2))
    assert pruned.interval.low == pytest.approx(pruned.value), "every segment is worse by the same factor"
    values = Values(document.values)
    assert [values.get(ratio.place, pruned.variant).items for ratio in pruned.ratios] == [ITEMS]
    assert document.warnings == ()


def test_score_of_one_track_has_no_other(ask):
    document = RunScores.model_validate_json(ask("score", "--track", "1", "--json", "--mode", "strict"))
    assert {one.track for one in document.scores} == {1}
    assert document.mode == "strict"


def test_compare_tells_two_variants_apart(ask):
    document = Comparison.model_validate_json(ask("compare", "last", "dense", "sparsegpt 50%", "--json"))
    easy = next(one for one in document.values if one.place.name == "arc_easy")
    assert easy.difference == pytest.approx(1 / 6)
    assert (easy.mcnemar.only_a, easy.mcnemar.only_b) == (10, 0)
    assert easy.mcnemar.p_value == pytest.approx(2 / 2**10)
    assert easy.interval.low > 0
    text = ask("compare", "last", "dense", "sparsegpt")
    assert "B: sparsegpt 50%" in text
    assert "+16.67 points" in text
    assert max(map(len, text.splitlines())) <= 120


def test_compare_with_another_run_of_other_limits_refuses_and_says_why(bench, ask):
    limited = {**MANIFEST, "name": "limited", "evaluate": {"tasks": ["wikitext2", "arc_easy"], "limit": 50}}
    bench.run(FakeRuntime(keeping_worker), limited)
    arguments = ("compare", "small", "sparsegpt", "sparsegpt", "--other-run", "limited")
    document = Comparison.model_validate_json(ask(*arguments, "--json"))
    easy = next(one for one in document.values if one.place.name == "arc_easy")
    assert easy.difference is None
    protocol = "choice/arc_easy@lm-eval-0.4.13"
    assert easy.reason == f"measured by different protocols: '{protocol}' and '{protocol} first 50'"
    text = ask(*arguments)
    assert "warning: arc_easy of tiny: measured by different protocols" in " ".join(text.split())
    assert "A: sparsegpt 50% of small-" in text


def test_an_unknown_variant_is_an_error_that_names_the_known_ones(ask):
    with pytest.raises(BadManifest, match="unknown variant 'sparsegtp 50%'; did you mean 'sparsegpt 50%'") as refused:
        ask("compare", "last", "dense", "sparsegtp 50%")
    assert "'dense', 'sparsegpt 50%'" in refused.value.hint


def test_the_report_has_the_same_intervals(bench, ask, tmp_path):
    ask("report", "last", "--format", "json,markdown", "--output", str(tmp_path / "report"))
    report = RunReport.model_validate_json((tmp_path / "report/report.json").read_bytes())
    document = RunScores.model_validate_json(ask("score", "last", "--json"))
    assert report.scoring == document
    assert "Square brackets hold 95 % intervals" in (tmp_path / "report/report.md").read_text()


def test_what_any_worker_remarks_stands_beside_its_stage_and_with_its_values(bench):
    remark = "served as dense weights: 50.0% zeros bring no speed here"

    def remarking(request: WorkRequest, output: Path) -> WorkResult:
        result = keeping_worker(request, output)
        fields = type(result).model_fields
        return result.model_copy(update={"notes": (f"{request.operation}: {remark}",)}) if "notes" in fields else result

    record = bench.run(FakeRuntime(remarking))
    report = build_report(record, bench.store, bench.catalog)
    told = {stage.operation: stage.notes for stage in report.stages if stage.notes}
    assert told == {name: (f"{name}: {remark}",) for name in ("evaluate", "profile", "benchmark")}
    notes = {value.place.track: value.notes for value in report.scoring.values}
    assert notes[Track.HARDWARE_ACCELERATION] == (f"benchmark: {remark}",)
    assert notes[Track.INFERENCE_CONSUMPTION] == (f"profile: {remark}",)
    for render in (render_markdown, render_html):
        assert render(report).count(f"benchmark: {remark}") == 3, "of the dense model, of the pruned one, and among all"
    where = "(dense of tiny: transformers; sparsegpt 50% of tiny: transformers)"
    assert f"- benchmark: {remark} {where}" in " ".join(summary_text(report).split())
    assert {note for stage in report.scoring.measured for note in stage.notes} == {
        f"{name}: {remark}" for name in ("evaluate", "profile", "benchmark")
    }


SECOND_HALF_ALONE = {
    "index": 0,
    "document": "d",
    "log_likelihoods": [-2.0, -3.0, -1.0, -1.0],
    "gold": 0,
    "picked": 0,
    "mc1_choices": 2,
    "mc2_true": [0],
    "correct": {"mc2": 0.5},
}


def test_a_result_without_the_figure_that_counts_leaves_a_gap_with_the_reason(bench):
    def forgetful(request: WorkRequest, output: Path) -> WorkResult:
        result = keeping_worker(request, output)
        if isinstance(result, EvaluateResult) and result.task == "truthfulqa":
            return with_items(result, output, [SECOND_HALF_ALONE])
        return result.model_copy(update={"macs": {"macs/shape": 2048}}) if isinstance(result, ProfileResult) else result

    tasks = {"evaluate": {"tasks": ["wikitext2", "truthfulqa"]}, "scoring": {"truthfulness": "mc1"}}
    asked = {**MANIFEST, **tasks}
    report = build_report(bench.run(FakeRuntime(forgetful), asked), bench.store, bench.catalog)
    missing = {one.place.name: one.reason for score in report.scores for one in score.coverage.missing}
    assert missing["truthfulqa"] == "evaluate/tiny/sparsegpt-50%/truthfulqa: the outcomes of its items give no mc1"
    assert missing["macs"] == "profile/tiny/sparsegpt-50%: the result has no macs/paper-bitops"
    counted = {one.place.name for score in report.scores for one in score.ratios}
    assert {"wikitext2", "disk_bytes"} <= counted


def test_claims_are_judged_on_a_run_and_end_with_3_where_one_is_not_met(ask, bench, tmp_path):
    ask("score", "last")
    path = tmp_path / "claims.yaml"
    path.write_text(
        "schema_version: 1\n"
        "title: What was expected\n"
        "groups: {pruned: {methods: [sparsegpt]}, zeros: {categories: [unstructured]}}\n"
        "claims:\n"
        "  - {name: costs-something, says: Pruning costs something., source: here,\n"
        "     a: {of: pruned, track: 2}, value: {at_most: 95}}\n"
        "  - {name: costs-much, says: Pruning costs much., source: here,\n"
        "     a: {of: zeros, track: 2}, value: {at_most: 50}}\n",
        encoding="utf-8",
    )
    arguments = ["claims", "last", "--claims", str(path), "--store", str(bench.root)]
    found = CliRunner().invoke(app, [*arguments, "--json", "--resamples", "300"], catch_exceptions=False)
    document = RunClaims.model_validate_json(found.stdout)
    assert [one.verdict for one in document.findings] == [Verdict.HOLDS, Verdict.FAILS]
    assert [one.figure for one in document.findings] == pytest.approx([100 * math.exp(-0.2)] * 2)
    assert found.exit_code == CommandExit.INCOMPLETE
    text = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "2 claims: 1 HOLDS, 1 FAILS in small-" in text
    path.write_text(path.read_text("utf-8").replace("at_most: 50", "at_most: 90"), encoding="utf-8")
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == CommandExit.COMPLETE


def test_claims_that_do_not_come_with_the_project_are_refused_by_name(bench):
    with pytest.raises(BadManifest, match="unknown file of claims 'papers'") as refused:
        CliRunner().invoke(app, ["claims", "last", "--claims", "papers"], catch_exceptions=False)
    assert "paper" in refused.value.hint


def test_a_report_has_the_categories_and_the_papers_conclusions_that_its_run_measured(bench):
    record = bench.run(FakeRuntime(keeping_worker))
    report = build_report(record, bench.store, bench.catalog)
    assert [(one.category, one.library) for one in report.categories] == [
        (Category.UNSTRUCTURED, "transformers"),
        (Category.UNSTRUCTURED, None),
    ]
    assert report.claims is not None
    told = next(one for one in report.claims.findings if one.name == "unstructured-gains-nothing")
    assert (told.verdict, told.reason) == (Verdict.CANNOT_TELL, "one round: no interval")
    assert told.figure == pytest.approx(150)
    unmeasured = next(one for one in report.claims.findings if one.verdict is Verdict.NOT_MEASURED)
    for text in (summary_text(report, width=200), render_html(report), render_markdown(report)):
        assert "Acceleration by category of compression" in text
        assert "150.00" in text
        assert told.says.split(" speed")[0] in text
        assert unmeasured.says not in text
        assert f"{report.claims.count(Verdict.NOT_MEASURED)} NOT MEASURED" in text


def test_published_values_pass_or_fail_by_their_tolerance(bench, tmp_path):
    bench.run(FakeRuntime(keeping_worker))
    stored = RunScores.model_validate_json(
        CliRunner().invoke(app, ["score", "--json", "--resamples", "100", "--store", str(bench.root)]).stdout
    )
    dense = next(one for one in stored.values if one.place.name == "wikitext2" and one.variant.is_dense)
    path = tmp_path / "claims.yaml"

    def judged(value: float) -> tuple[Verdict, int]:
        path.write_text(
            "schema_version: 1\n"
            "title: Published\n"
            "published:\n"
            "  - {name: dense, source: a paper, model: tiny, task: wikitext2, tolerance_percent: 1,\n"
            f"     protocol: {dense.protocol}, value: {value}}}\n",
            encoding="utf-8",
        )
        arguments = [
            "claims",
            "last",
            "--claims",
            str(path),
            "--resamples",
            "100",
            "--store",
            str(bench.root),
            "--json",
        ]
        found = CliRunner().invoke(app, arguments, catch_exceptions=False)
        return RunClaims.model_validate_json(found.stdout).findings[0].verdict, found.exit_code

    assert judged(dense.value * 1.005) == (Verdict.MET, CommandExit.COMPLETE)
    assert judged(dense.value * 1.02) == (Verdict.MISSED, CommandExit.INCOMPLETE)
