"""Of a stored run it is found out which variants are the baselines of which, and every form of the report says it."""

import pytest
from typer.testing import CliRunner

from harness.contract import CompressRequest, CompressResult, Quantization
from orchestrator.cli.app import app
from orchestrator.evidence.baselines import Baseline
from orchestrator.evidence.reading import read_evidence
from orchestrator.evidence.value import Variant
from orchestrator.report import render_html, render_markdown, summary_text
from orchestrator.report.building import build_report
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST
from tests.support.stage_workers import keeping_worker, write_descriptor

SYMMETRIC = Quantization(weight_bits=4, activation_bits=4, simulated=True)
ASYMMETRIC = SYMMETRIC.model_copy(update={"symmetric": False, "activations_symmetric": False})
GRIDS = {
    "rtn": SYMMETRIC,
    "rtn-asymmetric": ASYMMETRIC,
    "omniquant": ASYMMETRIC.model_copy(update={"attention_bits": 4}),
    "smoothquant": SYMMETRIC,
}
PRUNED = [
    {"method": "sparsegpt", "setting": "50%"},
    {"method": "wanda", "setting": "2:4"},
    {"method": "llm-pruner", "setting": "50%"},
    {"method": "magnitude", "setting": "50%", "accuracy_only": True},
]
QUANTIZED = [
    {"method": "omniquant", "setting": "W4A4"},
    {"method": "smoothquant", "setting": "W4A4"},
    {"method": "rtn", "setting": "W4A4"},
    {"method": "rtn", "setting": "W4A4", "name": "rtn-asymmetric", "options": {"symmetric": False}},
]


def worker(request, output):
    result = keeping_worker(request, output)
    if not isinstance(request, CompressRequest):
        return result
    grid = next((grid for name, grid in GRIDS.items() if f"/{name}-W" in request.id), None)
    artifact = result.artifact.model_copy(update={"quantization": grid})
    write_descriptor(output / "artifact", artifact)
    return CompressResult(artifact=artifact, cost=result.cost)


def baselines_of(bench, compress):
    record = bench.run(FakeRuntime(worker), {**MANIFEST, "compress": compress})
    found = read_evidence(record, bench.store, bench.catalog).baselines
    return {variant.label: [(one.variant.label, one.differs) for one in each] for variant, each in found.items()}


def test_a_pruning_has_the_magnitude_row_of_its_setting_and_what_cuts_units_out_has_none(bench):
    assert baselines_of(bench, PRUNED) == {"sparsegpt 50%": [("magnitude 50%", ())]}


def test_a_quantization_has_the_row_of_its_own_grid_or_one_that_says_what_differs(bench):
    assert baselines_of(bench, QUANTIZED) == {
        "smoothquant W4A4": [("rtn W4A4", ())],
        "omniquant W4A4": [
            (
                "rtn W4A4",
                ("with symmetric weights", "with symmetric activations", "with queries, keys and values as they are"),
            ),
            ("rtn-asymmetric W4A4", ("with queries, keys and values as they are",)),
        ],
    }


@pytest.fixture
def report(bench):
    """SparseGPT gets every third item wrong, the stand-in of magnitude pruning none."""
    return build_report(bench.run(FakeRuntime(worker), {**MANIFEST, "compress": PRUNED}), bench.store, bench.catalog)


def test_every_form_of_the_report_marks_the_row(bench, report):
    said = "sparsegpt 50% is worse than magnitude 50% beyond noise: -"
    for form in (render_markdown(report), render_html(report), summary_text(report, width=400)):
        assert said in form
        assert "magnitude 50% is worse" not in form and "magnitude 50% does not beat" not in form
    printed = CliRunner().invoke(app, ["score", "last", "--store", str(bench.root)], catch_exceptions=False).stdout
    assert said in " ".join(printed.split())
    (one,) = [one for one in report.scoring.baselines if one.track == 1]
    assert (one.variant, one.baseline) == (
        Variant(method="sparsegpt", setting="50%"),
        Baseline(variant=Variant(method="magnitude", setting="50%")),
    )
    assert one.beats is False


def test_what_was_not_asked_for_of_a_baseline_is_said_to_be_so(report):
    magnitude = Variant(method="magnitude", setting="50%")
    missing = {
        one.place.track: {each.reason for each in report.scoring.score(magnitude, one.place.track).coverage.missing}
        for score in report.scores
        if score.variant == magnitude
        for one in score.coverage.missing
    }
    alone = "the manifest asks for its accuracy alone"
    assert missing[4] == {alone}
    assert alone in missing[5]
    sparsegpt = Variant(method="sparsegpt", setting="50%")
    reasons = {each.reason for track in (4, 5) for each in report.scoring.score(sparsegpt, track).coverage.missing}
    assert alone not in reasons
