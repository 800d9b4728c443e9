"""Evaluations by several engines: what is planned, what counts in the scores, and how far the engines agree."""

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from typer.testing import CliRunner

from harness.contract import (
    Device,
    Dtype,
    EvaluateParameters,
    EvaluateRequest,
    EvaluateResult,
    Operation,
    WorkRequest,
    WorkResult,
)
from harness.contract.items import NOT_FINITE, SegmentItem
from orchestrator.cli.app import app
from orchestrator.errors import BadManifest
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.plan.choices import check_engine
from orchestrator.report import RunReport
from orchestrator.report.building import build_report
from orchestrator.score import agreement
from orchestrator.score.agreement import RunAgreement
from orchestrator.stages import Plan
from orchestrator.tracks import Track
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import IMAGES, MANIFEST, Bench
from tests.support.stage_workers import honest_worker, is_pruned, segments, with_items, write_items

BOTH = {**MANIFEST, "evaluate": {"tasks": ["wikitext2", "arc_easy"], "limit": 4, "engine": ["transformers", "vllm"]}}
OUTCOMES = {
    "transformers": [(-1.0, -2.0), (-3.0, -2.5), (-1.0, -1.5), (-4.0, -1.0)],
    "vllm": [(-1.5, -2.0), (-2.0, -2.5), (-1.0, -1.25), (None, None)],
}


def scoring_worker(request: WorkRequest, output: Path) -> WorkResult:
    """As the honest worker, but each engine has likelihoods of its own; vLLM leaves out the last item."""
    result = honest_worker(request, output)
    if not (isinstance(request, EvaluateRequest) and isinstance(result, EvaluateResult)):
        return result
    engine, texts = request.parameters.engine, request.parameters.task == "wikitext2"
    if is_pruned(request) and engine == "vllm" and texts:
        raise RuntimeError("the kernel does not take this shape")
    found = OUTCOMES[engine]
    if texts:
        return with_items(result, output, segments([-pair[0] / 9 for pair in found[:3]]))
    lines = [question(pair) | {"index": n, "document": f"{n:x}"} for n, pair in enumerate(found)]
    scored = with_items(result, output, [line for line in lines if line["correct"]])
    write_items(output / result.items_file, lines)
    left_out = len(lines) - scored.items
    return scored.model_copy(
        update={"items_available": len(lines), "excluded": {NOT_FINITE: left_out} if left_out else {}}
    )


def question(pair: tuple[float | None, float | None]) -> dict[str, Any]:
    """A line of an items file, whose first choice is the right one."""
    likelihoods = [value for value in pair if value is not None]
    line = {"log_likelihoods": pair, "gold": 0, "lengths": [1, 1], "correct": {}}
    if len(likelihoods) < len(pair):
        return line
    pick = likelihoods.index(max(likelihoods))
    return line | {"picked": pick, "picked_norm": pick, "correct": {"acc_norm": float(pick == 0)}}


def plan_of(bench: Bench, **evaluate: object) -> Plan:
    manifest = {**MANIFEST, "evaluate": {"tasks": ["arc_easy"], **evaluate}}
    return build_plan(Manifest.model_validate(manifest), bench.catalog, Device(threads=1), None)


def evaluations(plan: Plan) -> list[tuple[str, str, str]]:
    """Stage, image and engine of each evaluation of the dense model."""
    return [
        (stage.id, stage.image, stage.parameters.engine)
        for stage in plan.stages
        if isinstance(stage.parameters, EvaluateParameters) and "dense" in stage.id
    ]


REFERENCE = ("evaluate/tiny/dense/arc_easy", "evaluate", "transformers")
DEPLOYED = ("evaluate/tiny/dense/arc_easy/vllm", "vllm", "vllm")


@pytest.mark.parametrize(
    ("asked", "planned"),
    [
        ({}, [REFERENCE]),
        ({"engine": "hf"}, [REFERENCE]),
        ({"engine": "vllm"}, [DEPLOYED]),
        ({"engine": ["transformers", "vllm"], "processes": 2}, [REFERENCE, DEPLOYED]),
    ],
)
def test_each_engine_has_its_own_stage_in_its_own_image(bench: Bench, asked, planned) -> None:
    plan = plan_of(bench, **asked)
    assert evaluations(plan) == planned
    for stage in plan.stages:
        if stage.image == "vllm":
            assert stage.parameters.processes == 1


def test_all_engines_compute_in_the_dtype_that_is_asked_for(bench: Bench) -> None:
    for asked in (None, Dtype.FLOAT32):
        plan = plan_of(bench, engine=["transformers", "vllm"], dtype=asked)
        evaluating = [one.parameters for one in plan.stages if isinstance(one.parameters, EvaluateParameters)]
        assert {(one.engine, one.dtype) for one in evaluating} == {("transformers", asked), ("vllm", asked)}


def test_an_engine_that_gives_no_log_likelihoods_is_listed_and_not_attempted(bench: Bench, monkeypatch) -> None:
    """As for any backend whose image.toml does not say that it scores."""
    image, backend = bench.catalog.backends["vllm"]
    silent = {
        **bench.catalog.backends,
        "silent": (image, backend.model_copy(update={"name": "silent", "scores": False})),
    }
    monkeypatch.setattr(bench.catalog, "backends", silent)
    plan = plan_of(bench, engine=["transformers", "silent"])
    assert evaluations(plan) == [REFERENCE]
    refused = plan.not_planned[0]
    assert (refused.operation, refused.backend, refused.reason.value) == (Operation.EVALUATE, "silent", "backend")
    assert "gives no log-likelihoods" in refused.message


def test_an_unknown_engine_gets_a_suggestion(bench: Bench) -> None:
    with pytest.raises(BadManifest, match="unknown engine 'vlm'; did you mean 'vllm'") as caught:
        plan_of(bench, engine="vlm")
    assert caught.value.hint == "these evaluate: transformers, llama-cpp, vllm"


def test_scores_cannot_count_an_engine_that_is_not_asked_for() -> None:
    with pytest.raises(BadManifest, match="unknown engine of the scores 'vllm'"):
        check_engine(Manifest.model_validate({**MANIFEST, "scoring": {"engine": "vllm"}}), ImageCatalog(IMAGES))
    check_engine(Manifest.model_validate({**BOTH, "scoring": {"engine": "vllm"}}), ImageCatalog(IMAGES))


def report_of(bench: Bench, manifest: dict[str, object]) -> RunReport:
    record = bench.run(FakeRuntime(scoring_worker), manifest)
    return build_report(record, bench.store, ImageCatalog(IMAGES))


@pytest.mark.parametrize(
    ("scoring", "counted", "shown"),
    [({}, "transformers", "arc_easy by vllm"), ({"engine": "vllm"}, "vllm", "arc_easy by transformers")],
)
def test_one_engine_counts_and_the_other_is_shown(bench: Bench, scoring, counted, shown) -> None:
    report = report_of(bench, {**BOTH, "scoring": scoring})
    values = report.scoring.values
    found = {value.place.name: value for value in values if value.place.track is Track.PERFORMANCE}
    assert found["arc_easy"].place.part == "knowledge"
    assert found["arc_easy"].protocol.startswith("vllm/") == (counted == "vllm")
    assert found[shown].place.part == "other"


def test_without_the_reference_the_scores_say_what_is_missing(bench: Bench) -> None:
    report = report_of(bench, {**MANIFEST, "evaluate": {"tasks": ["arc_easy"], "engine": "vllm"}})
    reasons = {one.reason for score in report.scores for one in score.coverage.missing if one.place.name == "arc_easy"}
    assert reasons == {"evaluated by vllm alone, and scores count what transformers finds"}
    assert report.agreement == ()


def ask(bench: Bench, *arguments: str) -> str:
    found = CliRunner().invoke(app, [*arguments, "--store", str(bench.root)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def test_agreement_is_counted_item_by_item(bench: Bench) -> None:
    bench.run(FakeRuntime(scoring_worker), BOTH)
    document = RunAgreement.model_validate_json(ask(bench, "agreement", "last", "--json"))
    one = next(one for one in document.tasks if one.task == "arc_easy" and one.variant.is_dense)
    assert (one.items, one.picks, one.identical_picks, one.identical_percent) == (4, 4, 2, 50.0)
    assert (one.log_likelihoods, one.largest_difference_nats, one.largest_difference_index) == (6, 1.0, 1)
    assert one.mean_difference_nats == pytest.approx((0.5 + 1.0 + 0.25) / 6)
    moved, lost = one.differing
    assert (moved.index, moved.reference_picked, moved.engine_picked) == (1, 1, 0)
    assert (moved.reference_log_likelihoods, moved.engine_log_likelihoods) == ((-3.0, -2.5), (-2.0, -2.5))
    assert (lost.index, lost.reference_picked, lost.engine_picked) == (3, 1, None)


def test_texts_have_differences_and_no_picks(bench: Bench) -> None:
    bench.run(FakeRuntime(scoring_worker), BOTH)
    document = RunAgreement.model_validate_json(ask(bench, "agreement", "last", "--json"))
    one = next(one for one in document.tasks if one.task == "wikitext2" and one.variant.is_dense)
    assert (one.items, one.picks, one.identical_percent, one.differing) == (3, 0, None, ())
    assert (one.largest_difference_nats, one.mean_difference_nats) == (1.0, pytest.approx(0.5))
    failed = next(one for one in document.tasks if one.task == "wikitext2" and not one.variant.is_dense)
    assert failed.reason is not None
    assert "no result of vllm" in failed.reason
    assert "the kernel does not take this shape" in failed.reason


def test_report_and_command_show_the_agreement_and_the_items(bench: Bench) -> None:
    bench.run(FakeRuntime(scoring_worker), BOTH)
    paths = ask(bench, "report", "last", "--format", "markdown,html,json").split()
    for path in paths[:2]:
        text = Path(path).read_text("utf-8")
        assert "Agreement with the reference, item by item" in text
        assert "50.0 % (2/4)" in text
        assert "-3.000, -2.500" in text
        assert "the kernel does not take this shape" in text
    assert RunReport.model_validate_json(Path(paths[2]).read_text("utf-8")).agreement[0].engine == "vllm"
    printed = ask(bench, "agreement", "last", "--items", "1")
    assert "50.0 % (2/4)" in printed
    assert "the first 1 of each task" in printed


def test_a_run_of_one_engine_has_nothing_to_compare(bench: Bench) -> None:
    bench.run(FakeRuntime(scoring_worker))
    assert "by one engine alone" in ask(bench, "agreement")


def test_outcomes_that_are_not_of_the_same_items_are_not_compared(bench: Bench) -> None:
    def other_rows(request: WorkRequest, output: Path) -> WorkResult:
        result = scoring_worker(request, output)
        if isinstance(result, EvaluateResult) and result.engine == "vllm":
            path = output / result.items_file
            lines = [json.loads(line) for line in zstandard.decompress(path.read_bytes(), 10**6).splitlines()]
            if result.task == "wikitext2":
                return with_items(result, output, segments([1.0, 1.0, 1.0], tokens=3))
            write_items(path, [line | {"document": "f"} for line in lines])
        return result

    bench.run(FakeRuntime(other_rows), BOTH)
    document = RunAgreement.model_validate_json(ask(bench, "agreement", "last", "--json"))
    assert {one.reason for one in document.tasks if one.variant.is_dense} == {"not of the same items"}


def test_a_segment_that_an_engine_left_out_is_compared_by_no_likelihood() -> None:
    scored = SegmentItem(index=3, negative_log_likelihood=2.5, tokens=7)
    left_out = scored.model_copy(update={"negative_log_likelihood": None})
    assert agreement._outcome(scored, "perplexity").log_likelihoods == (-2.5,)
    assert agreement._outcome(left_out, "perplexity").log_likelihoods == (None,)
    assert agreement._outcome(left_out, "perplexity").name == agreement._outcome(scored, "perplexity").name
