"""A figure over the items that are left is marked in every form: console, pages, JSON and comparison."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from harness.contract import EvaluateRequest, EvaluateResult, WorkRequest, WorkResult
from harness.contract.items import NOT_FINITE
from orchestrator.evidence.reading import Evidence, read_evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import DENSE
from orchestrator.report import render_html, render_markdown
from orchestrator.report.answers import comparison_blocks, score_blocks
from orchestrator.report.building import build_report
from orchestrator.score.comparing import Side, compare
from orchestrator.score.scores import score_run
from orchestrator.tracks import Mode, Track
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker, is_pruned, segments, with_items

SEGMENTS = 200
TASKS = MANIFEST | {"evaluate": {"tasks": ["wikitext2"]}, "profile": None, "benchmark": None}
LOST = f"1 of {SEGMENTS} items have no outcome (1 {NOT_FINITE})"


def overflowing_worker(request: WorkRequest, output: Path) -> WorkResult:
    """Dense gives no likelihood to segment 3, which is hard; the pruned model none to segment 7, which is easy."""
    result = honest_worker(request, output)
    if not (isinstance(request, EvaluateRequest) and isinstance(result, EvaluateResult)):
        return result
    pruned = is_pruned(request)
    items = segments([4.0 if place == 3 else 2.0 + 0.01 * (place % 5) + 0.1 * pruned for place in range(SEGMENTS)])
    items[7 if pruned else 3]["negative_log_likelihood"] = None
    return with_items(result, output, items)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Evidence]:
    from orchestrator.run import resources

    folder = tmp_path_factory.mktemp("survivors")
    bench = Bench(folder / "store")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resources, "device_lock_path", lambda name: folder / f"device-{name}.lock")
        record = bench.run(FakeRuntime(overflowing_worker), TASKS)
    return bench, read_evidence(record, bench.store, bench.catalog, Resampling(resamples=200))


def printed(blocks: list) -> str:
    stream = io.StringIO()
    Console(file=stream, width=400).print(*blocks, sep="\n")
    return stream.getvalue()


def test_both_are_measured_by_one_protocol_and_paired_on_the_common_items(run: tuple[Bench, Evidence]) -> None:
    _, evidence = run
    dense, pruned = (
        next(one for one in evidence.values.of(variant) if one.place.track is Track.GENERALIZATION)
        for variant in evidence.variants
    )
    assert dense.protocol == pruned.protocol
    assert (dense.excluded, pruned.excluded) == ({NOT_FINITE: 1}, {NOT_FINITE: 1})
    assert pruned.paired is not None
    assert pruned.paired.items == SEGMENTS - 2
    ratio = pruned.paired.value / pruned.paired.reference
    assert ratio == pytest.approx(2.718281828459045**0.1)
    assert pruned.value / dense.value > ratio * 1.005


def test_every_form_of_the_report_marks_it(run: tuple[Bench, Evidence]) -> None:
    bench, evidence = run
    report = build_report(bench.store.runs.read(evidence.run), bench.store, bench.catalog)
    warning = f"wikitext2 of tiny, sparsegpt 50%: {LOST}; compared over the 198 that the dense model has as well"
    for page in (render_markdown(report), render_html(report), report.model_dump_json()):
        assert warning in page.replace("\\_", "_")
    assert "over the 198 that dense has, too" in render_markdown(report)
    assert "199 of 200 items" in render_markdown(report)
    scoring = json.loads(report.model_dump_json())["scoring"]
    assert {value["excluded"].get(NOT_FINITE) for value in scoring["values"] if value["metric"]} == {1}


def test_the_console_marks_it(run: tuple[Bench, Evidence]) -> None:
    _, evidence = run
    text = printed(score_blocks(score_run(evidence, Mode.PAPER)))
    assert "(199 of 200 items; " in text
    assert f"warning: wikitext2 of tiny, dense: {LOST}" in text


def test_a_comparison_marks_it(run: tuple[Bench, Evidence]) -> None:
    _, evidence = run
    pruned = next(one for one in evidence.variants if not one.is_dense)
    document = compare(Side(evidence, pruned), Side(evidence, DENSE), Mode.PAPER, Resampling(resamples=200))
    text = printed(comparison_blocks(document))
    assert text.count("(own items: ") == 4
    assert f"warning: wikitext2 of tiny, sparsegpt 50%: {LOST}" in text
