"""`orchestrator recommend` on runs whose workers keep outcomes and measure in rounds."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.contract import (
    DESCRIPTOR_NAME,
    BenchmarkResult,
    CompressResult,
    EvaluateResult,
    Memory,
    ProfileResult,
)
from orchestrator.cli.app import app
from orchestrator.decide.answer import Answer, Decision
from orchestrator.decide.answering import decide_run
from orchestrator.decide.limits import Standing, Verdict
from orchestrator.errors import BadManifest
from orchestrator.evidence.reading import Evidence, read_evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import Interval
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest.deciding import DecideEntry, Quantity
from orchestrator.report import RunReport
from orchestrator.report.building import build_report
from orchestrator.report.recommendation import recommendation, recommendations
from orchestrator.report.schema import SCHEMAS
from orchestrator.store import Store
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import IMAGES, MANIFEST, Bench
from tests.support.stage_workers import honest_worker, keeping_worker, questions, segments, with_items

ITEMS = 600
RIGHT = 420
WRONGED = {"sparsegpt": 1, "wanda": 30, "magnitude": 60, None: 0}
"""Of the items that dense has right, how many each method gets wrong."""
SERVED_BYTES = {"sparsegpt": 1600, "wanda": 1500, "magnitude": 1500, None: 2000}
FASTER = {"sparsegpt": 1.5, "wanda": 2.0, "magnitude": 2.0, None: 1.0}
ASKED = {
    **MANIFEST,
    "compress": [{"method": method, "setting": "50%"} for method in ("sparsegpt", "wanda")]
    + [{"method": "magnitude", "setting": "50%", "accuracy_only": True}],
    "evaluate": {"tasks": ["wikitext2", "arc_easy", "piqa"], "limit": ITEMS},
    "rounds": {"benchmark": 3, "profile": 3},
}


def method_of(request) -> str | None:
    text = (Path(request.inputs["checkpoint"]) / DESCRIPTOR_NAME).read_text(encoding="utf-8")
    return json.loads(text)["method"]


def worker(request, output):
    """piqa is guessed by all; in arc_easy each method gets some of dense's right answers wrong."""
    result = honest_worker(request, output)
    if isinstance(result, CompressResult) or "checkpoint" not in getattr(request, "inputs", {}):
        return result
    method = method_of(request)
    if isinstance(result, EvaluateResult):
        if request.parameters.task == "wikitext2":
            return with_items(result, output, segments([2.0 + 0.1 * (index % 7) for index in range(60)]), available=60)
        right = RIGHT - WRONGED[method] if request.parameters.task == "arc_easy" else ITEMS // 2
        return with_items(result, output, questions([index < right for index in range(ITEMS)]), available=ITEMS)
    if isinstance(result, BenchmarkResult):
        speed = 20 * FASTER[method]
        update = {"decode_tokens_per_second": speed, "samples": (speed,)}
        speeds = tuple(one.model_copy(update=update) for one in result.speeds)
        memory = Memory(peak_memory_bytes=SERVED_BYTES[method], method="peak-rss")
        return result.model_copy(update={"speeds": speeds, "memory": memory})
    assert isinstance(result, ProfileResult)
    return result


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bench = Bench(tmp_path_factory.mktemp("decided") / "store")
    assert bench.run(FakeRuntime(worker), ASKED).complete
    return bench.root


def printed(store: Path, *arguments: str) -> str:
    command = ["recommend", "last", "--resamples", "2000", *arguments, "--store", str(store)]
    found = CliRunner().invoke(app, command, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.fixture(scope="module")
def evidence(store: Path) -> Evidence:
    return read(store)


def read(store: Path) -> Evidence:
    opened = Store(store)
    return read_evidence(opened.runs.load("last"), opened, ImageCatalog(IMAGES), Resampling(resamples=2000))


def decided(evidence: Evidence, **asked: object) -> Answer:
    (answer,) = decide_run(evidence, DecideEntry.model_validate(asked)).answers
    return answer


def standings(answer: Answer) -> dict[str, Standing]:
    return {one.choice.variant.label: one.standing for one in answer.candidates}


def test_what_keeps_the_limit_on_the_loss_and_is_better_is_recommended(evidence: Evidence) -> None:
    answer = decided(evidence)
    assert answer.recommended.label == "sparsegpt 50% through transformers"
    assert standings(answer) == {
        "dense": Standing.ADMITTED,
        "sparsegpt 50%": Standing.ADMITTED,
        "wanda 50%": Standing.EXCLUDED,
        "magnitude 50%": Standing.EXCLUDED,
    }
    loss = answer.chosen.amount(Quantity.LOSS)
    assert loss.value == pytest.approx(1 / RIGHT)
    assert loss.interval.low < loss.value < loss.interval.high < 0.02
    assert answer.chosen.amount(Quantity.MEMORY).value == 1600, "as the backend served it, not as the profile"
    assert answer.chosen.amount(Quantity.SPEED).value == pytest.approx(30)
    assert answer.chosen.pareto == 1


def test_a_task_that_dense_guesses_shows_no_loss(evidence: Evidence) -> None:
    loss = decided(evidence).loss
    assert loss.tasks == ("arc_easy",)
    assert "not surely better than guessing" in loss.left_out["piqa"]
    assert loss.guessing == pytest.approx(1 - 0.5 / 0.7)


def test_a_wider_limit_admits_what_is_faster(evidence: Evidence) -> None:
    answer = decided(evidence, max_loss="12%", prefer={"speed": 2, "memory": 1})
    assert answer.recommended.variant.label == "wanda 50%"
    assert answer.weights == {Quantity.SPEED: 2, Quantity.MEMORY: 1}
    (baseline,) = answer.for_nothing
    assert (baseline.variant.label, baseline.as_good) == ("magnitude 50%", False)


@pytest.mark.parametrize(("high", "says"), [(-0.005, "loses less"), (0.022, "may lose no more")])
def test_the_sentence_says_whether_a_baseline_loses_less_or_no_more(evidence: Evidence, high: float, says: str) -> None:
    answer = decided(evidence, max_loss="12%", prefer={"speed": 2, "memory": 1})
    (baseline,) = answer.for_nothing
    found = {"as_good": True, "difference": -0.037, "interval": Interval(low=-0.07, high=high)}
    said = answer.model_copy(update={"for_nothing": (baseline.model_copy(update=found),)})
    assert f"magnitude 50%, which needs no calibration, {says} (" in recommendation(said, DecideEntry())


@pytest.mark.parametrize(("kept", "says"), [(1, "1 certainly breaks a limit ("), (2, "2 certainly break a limit (")])
def test_one_that_breaks_a_limit_is_one(evidence: Evidence, kept: int, says: str) -> None:
    answer = decided(evidence)
    broken = [one for one in answer.candidates if one.standing is Standing.EXCLUDED][:kept]
    dense = next(one for one in answer.candidates if one.choice.variant.is_dense)
    told = answer.model_copy(update={"candidates": (dense, *broken), "recommended": dense.choice, "for_nothing": ()})
    assert says in recommendation(told, DecideEntry())


def test_what_a_limit_in_absolute_units_excludes_is_said(evidence: Evidence) -> None:
    answer = decided(evidence, max_memory="1.9kB", max_loss="12%", min_speed="35tokens/s")
    assert answer.recommended.variant.label == "wanda 50%"
    excluded = {one.choice.variant.label: one for one in answer.standing_as(Standing.EXCLUDED)}
    assert excluded["dense"].limit(Quantity.MEMORY).verdict is Verdict.BROKEN
    assert excluded["sparsegpt 50%"].limit(Quantity.SPEED).verdict is Verdict.BROKEN
    assert excluded["sparsegpt 50%"].limit(Quantity.SPEED).probability == 0
    assert {entry.limit(Quantity.TIME) for entry in excluded.values()} == {None}, "nobody set one"


def test_without_a_limit_on_the_loss_what_is_best_is_recommended_whatever_it_loses(evidence: Evidence) -> None:
    answer = decided(evidence, max_loss="100%", max_memory="1.55kB")
    assert answer.recommended.variant.label == "wanda 50%"
    assert [one.quantity for one in answer.chosen.limits] == [Quantity.MEMORY]


def test_nothing_is_recommended_under_limits_that_nothing_keeps(store: Path, evidence: Evidence) -> None:
    answer = decided(evidence, max_memory="1kB")
    assert answer.recommended is None
    text = printed(store, "--max-memory", "1kB")
    assert text.startswith("Nothing can be recommended for tiny: 3 of 4 certainly break the limit on memory")


def test_what_was_not_measured_and_could_change_the_answer_is_said(evidence: Evidence) -> None:
    answer = decided(evidence, max_loss="100%")
    told = {(point.choice.variant.label, point.reason) for point in answer.open if point.choice is not None}
    assert ("magnitude 50%", "speed: the manifest asks for its accuracy alone") in told
    assert ("magnitude 50%", "memory: the manifest asks for its accuracy alone") in told


def test_of_a_loss_near_its_limit_it_is_said_how_many_items_would_tell(evidence: Evidence) -> None:
    answer = decided(evidence, max_loss="8%")
    wanda = next(one for one in answer.candidates if one.choice.variant.label == "wanda 50%")
    assert wanda.standing is Standing.OPEN
    assert 0.5 < wanda.limit(Quantity.LOSS).probability < 0.95
    assert wanda.items_needed > 2 * ITEMS
    (told,) = (point.reason for point in answer.open if point.choice == wanda.choice)
    assert told.endswith(f"about {wanda.items_needed} items would tell, of which {ITEMS} were scored")
    nearer = decided(evidence, max_loss="7.5%")
    assert nearer.entry(wanda.choice).items_needed > wanda.items_needed


def test_a_time_that_was_measured_once_is_judged_by_its_figure_and_says_so(evidence: Evidence) -> None:
    answer = decided(evidence, max_compress_time="1h")
    assert answer.recommended.variant.label == "sparsegpt 50%"
    limit = answer.chosen.limit(Quantity.TIME)
    assert (limit.verdict, limit.by_figure_alone, limit.reason) == (
        Verdict.PROBABLY_KEPT,
        True,
        "one round: no interval",
    )


def test_the_sentence_comes_first_and_says_why(store: Path) -> None:
    text = " ".join(printed(store).split())
    assert text.startswith("Use sparsegpt 50% through transformers for tiny: it loses 0.24 % [")
    assert "of dense's accuracy over arc_easy, certainly at most 2%, and it has 1.56 KiB" in text
    assert "of memory (dense 1.95 KiB)" in text
    assert "30 tokens/s [30, 30] (dense 20 tokens/s), 2 s to compress (measured once)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-memory", "16"), "--max-memory: '16' is no amount here; write a number and its unit, such as 16GiB"),
        (("--max-loss", "200%"), "--max-loss: '200%' is no amount here"),
        (("--prefer", "sped=2"), "--prefer: unknown quantity 'sped'; did you mean 'speed'"),
        (("--prefer", "speed=fast"), "--prefer: Input should be a valid number"),
        (("--prefer", "speed=0"), "--prefer: no quantity has a weight above 0"),
        (("--backend", "transformer"), "unknown backend of the run 'transformer'; did you mean 'transformers'"),
        (("--batch", "7"), "the run timed no batch of 7"),
        (("--model", "tinny"), "unknown model of the run 'tinny'; did you mean 'tiny'"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(store: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadManifest) as refused:
        printed(store, *arguments)
    assert refused.value.message.startswith(message)
    assert refused.value.hint


def test_the_report_has_the_decision_by_the_manifests_limits(store: Path, tmp_path: Path) -> None:
    command = ["report", "last", "-f", "json", "-o", str(tmp_path), "--store", str(store)]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    report = RunReport.model_validate_json((tmp_path / "report.json").read_bytes())
    (sentence,) = recommendations(report)
    assert sentence.startswith("Use sparsegpt 50% through transformers for tiny")


def test_a_run_that_cannot_be_asked_by_the_manifests_limits_is_reported_all_the_same(store: Path) -> None:
    opened = Store(store)
    record = opened.runs.load("last")
    document = {**record.manifest_document, "decide": {"batch": 16}}
    report = build_report(record.model_copy(update={"manifest_document": document}), opened, ImageCatalog(IMAGES))
    assert report.decision is None
    assert recommendations(report) == ["Nothing is recommended: the run timed no batch of 16."]


def test_without_tasks_that_have_right_answers_the_loss_is_that_of_perplexity_and_says_so(bench: Bench) -> None:
    bench.run(FakeRuntime(keeping_worker), {**ASKED, "evaluate": {"tasks": ["wikitext2"]}})
    answer = decided(read(bench.root), max_loss="20%", prefer={"memory": 1})
    assert answer.recommended.variant.label == "sparsegpt 50%"
    assert answer.chosen.amount(Quantity.LOSS).value == pytest.approx(1 - math.exp(-0.2))
    assert (answer.loss.tasks, answer.loss.by_perplexity, answer.loss.guessing) == (("wikitext2",), True, None)
    text = " ".join(printed(bench.root, "--max-loss", "20%").split())
    assert "by perplexity over wikitext2, certainly at most 20%" in text


def test_the_manifests_limits_decide_and_change_nothing_that_is_run(bench) -> None:
    models = [{**MANIFEST["models"][0], "name": name} for name in ("tiny", "twin")]
    asked = {**ASKED, "models": models}
    bench.run(FakeRuntime(worker), asked)
    strict = {**asked, "decide": {"max_loss": "12%", "prefer": {"speed": 1}}}
    later = FakeRuntime(worker)
    record = bench.run(later, strict)
    assert later.requests == []
    assert record.manifest.decide.max_loss == "12%"
    text = " ".join(printed(bench.root).split())
    assert text.startswith("Use wanda 50% through transformers for tiny")
    assert "Use wanda 50% through transformers for twin" in text.partition("Limits:")[0]
    of_twin = printed(bench.root, "--max-loss", "2%", "--model", "twin")
    assert of_twin.startswith("Use sparsegpt 50% through transformers for twin")


def test_the_document_follows_its_schema(store: Path) -> None:
    from jsonschema import Draft202012Validator

    (path,) = (path for path, document in SCHEMAS.items() if document is Decision)
    validator = Draft202012Validator(json.loads(path.read_text("utf-8")))
    assert list(validator.iter_errors(json.loads(printed(store, "--json")))) == []
