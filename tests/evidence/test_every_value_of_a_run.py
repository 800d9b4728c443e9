"""Each value of a run is the figure that its stage stored, at its place: workers here give no two figures alike."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.contract import (
    REFERENCE_ENGINE,
    ErrorCode,
    ErrorEvent,
    EvaluateRequest,
    EvaluateResult,
    Operation,
    ProtocolDetails,
    Reason,
    WorkRequest,
    WorkResult,
)
from orchestrator.evidence.collecting import collect
from orchestrator.evidence.reading import Evidence, read_evidence, stored_results
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.stage_values import UNCOUNTED
from orchestrator.evidence.value import DENSE, Value, Variant
from orchestrator.report.building import build_report
from orchestrator.stages import NotPlanned, Subject
from orchestrator.store import StageStatus
from orchestrator.tracks import Mode, Place, Track
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import is_pruned, keeping_worker, questions, with_items, write_items
from tests.support.telling_worker import telling_worker

PRUNED = Variant(method="sparsegpt", setting="50%")
ASKED = {
    **MANIFEST,
    "evaluate": {"tasks": ["wikitext2", "arc_easy", "truthfulqa"], "limit": 60},
    "benchmark": {"backends": ["transformers"], "batch_sizes": [1, 4]},
    "scoring": {"truthfulness": "mc1"},
}
HALVES = [-3.0, -2.0]


def truth(right: bool) -> dict[str, Any]:
    """A question of which MC1 is right or wrong, and MC2 a little less than a third, or a quarter."""
    second = [0.0, 0.0, 0.0, -9.0 if right else 0.0]
    return {
        "document": "d",
        "log_likelihoods": [*(HALVES[::-1] if right else HALVES), *second],
        "gold": 0,
        "picked": int(not right),
        "mc1_choices": 2,
        "mc2_true": [0],
        "correct": {"mc1": float(right), "mc2": 1 / sum(map(math.exp, second))},
    }


def worker(request: WorkRequest, output: Path) -> WorkResult:
    """As the telling worker; of TruthfulQA dense has 40 of 60 items right by MC1, the pruned model 30."""
    result = telling_worker(request, output)
    if not (isinstance(result, EvaluateResult) and result.task.startswith("truthfulqa")):
        return result
    lines = [{"index": n, **truth(n < (30 if is_pruned(request) else 40))} for n in range(60)]
    write_items(output / result.items_file, lines)
    shares = {name: math.fsum(line["correct"][name] for line in lines) / 60 for name in ("mc1", "mc2")}
    return result.model_copy(update={"metrics": shares, "metric": "mc2"})


def evidence(bench: Bench, answering: Callable[[WorkRequest, Path], Any], asked: dict[str, Any]) -> Evidence:
    return read_evidence(bench.run(FakeRuntime(answering), asked), bench.store, bench.catalog)


def found(of: Evidence, variant: Variant) -> dict[tuple[int, str, str], tuple[float, str, str]]:
    return {
        (value.place.track.value, value.place.part, value.place.name): (value.value, value.unit, value.protocol)
        for value in of.values.of(variant)
    }


DENSE_BYTES = 240
"""Of the stand-in's only file; the pruned model has one of 25 bytes beside it."""
DENSE_VALUES = {
    (1, "inference", "wikitext2"): (pytest.approx(math.exp(2.29)), "perplexity", "ppl/wikitext2-2048"),
    (1, "knowledge", "arc_easy"): (0.5, "fraction", "choice/arc_easy@lm-eval-0.4.13"),
    (2, "perplexity", "wikitext2"): (pytest.approx(math.exp(2.29)), "perplexity", "ppl/wikitext2-2048"),
    (4, "memory", "peak_memory_bytes"): (91 * 4096, "bytes", "peak-rss"),
    (4, "size", "disk_bytes"): (DENSE_BYTES, "bytes", "profile/test"),
    (4, "macs", "macs"): (2048, "macs", "macs/paper-bitops@128"),
    (5, "transformers", "batch 1"): (21, "tokens/s", "speed/1-1-b1"),
    (5, "transformers", "batch 4"): (84, "tokens/s", "speed/1-1-b4"),
    (6, "truthfulness", "truthfulqa"): (pytest.approx(40 / 60), "fraction", "choice/truthfulqa@lm-eval-0.4.13"),
}
PRUNED_VALUES = {
    (1, "inference", "wikitext2"): (pytest.approx(math.exp(2.49)), "perplexity", "ppl/wikitext2-2048"),
    (1, "knowledge", "arc_easy"): (pytest.approx(20 / 60), "fraction", "choice/arc_easy@lm-eval-0.4.13"),
    (2, "perplexity", "wikitext2"): (pytest.approx(math.exp(2.49)), "perplexity", "ppl/wikitext2-2048"),
    (3, "time", "compress_seconds"): (pytest.approx(40.2 + 20.4), "seconds", "cost/compress"),
    (3, "memory", "peak_memory_bytes"): (700 * 2**20, "bytes", "peak-rss"),
    (4, "memory", "peak_memory_bytes"): (91 * 4096 - 8000 + 6, "bytes", "peak-rss"),
    (4, "size", "disk_bytes"): (DENSE_BYTES + 25, "bytes", "profile/test"),
    (4, "macs", "macs"): (1024, "macs", "macs/paper-bitops@128"),
    (5, "transformers", "batch 1"): (31, "tokens/s", "speed/1-1-b1"),
    (5, "transformers", "batch 4"): (124, "tokens/s", "speed/1-1-b4"),
    (6, "truthfulness", "truthfulqa"): (0.5, "fraction", "choice/truthfulqa@lm-eval-0.4.13"),
}


def test_all_values_of_a_run_with_their_units_and_protocols(bench: Bench) -> None:
    of = evidence(bench, worker, ASKED)
    assert found(of, DENSE) == DENSE_VALUES
    assert found(of, PRUNED) == PRUNED_VALUES
    for variant, weights, floor in ((DENSE, "dense", 0.04), (PRUNED, "pruned", 0.05)):
        values = {(value.place.track, value.place.name): value for value in of.values.of(variant)}
        assert values[Track.TRUSTWORTHINESS, "truthfulqa"].metric == "mc1"
        assert values[Track.PERFORMANCE, "arc_easy"].metric == "acc_norm"
        assert values[Track.PERFORMANCE, "arc_easy"].items == 60
        assert values[Track.HARDWARE_ACCELERATION, "batch 4"].noise_floor == pytest.approx(floor)
        assert values[Track.HARDWARE_ACCELERATION, "batch 4"].higher_is_better
        assert not values[Track.INFERENCE_CONSUMPTION, "macs"].higher_is_better
        assert values[Track.PERFORMANCE, "arc_easy"].notes == (f"arc_easy of {weights} weights",)
        assert values[Track.INFERENCE_CONSUMPTION, "macs"].notes == (f"profile of {weights} weights",)
        assert values[Track.HARDWARE_ACCELERATION, "batch 1"].notes == (f"served as {weights} weights",)


def test_the_other_metric_of_truthfulness_is_the_other_value(bench: Bench) -> None:
    of = evidence(bench, worker, {**ASKED, "scoring": {"truthfulness": "mc2"}})
    rest = math.exp(-9)
    (own,) = (value for value in of.values.of(DENSE) if value.place.track is Track.TRUSTWORTHINESS)
    assert (own.metric, own.value) == ("mc2", pytest.approx((40 / (3 + rest) + 20 / 4) / 60))


def test_the_papers_truthfulness_is_the_value_of_its_own_task(bench: Bench, tmp_path: Path) -> None:
    local = tmp_path / "data" / "truthfulqa" / "llmcbench_csv.jsonl.gz"
    local.parent.mkdir(parents=True)
    local.write_bytes(b"")
    both = {**ASKED["evaluate"], "tasks": ["truthfulqa", "truthfulqa-paper"]}
    bench = replace(bench, data=local.parents[1])
    of = evidence(bench, worker, {**ASKED, "evaluate": both, "scoring": {"truthfulness": "paper"}})
    kept = {
        (value.place.part, value.place.name): value.metric
        for value in of.values.of(DENSE)
        if value.place.track is Track.TRUSTWORTHINESS
    }
    assert kept == {("truthfulness", "truthfulqa-paper"): "mc2", (UNCOUNTED, "truthfulqa"): "mc2"}


def test_a_caveat_of_a_stage_stands_with_its_values_and_no_others(bench: Bench) -> None:
    record = bench.run(FakeRuntime(worker), ASKED)
    name = "benchmark/tiny/sparsegpt-50%/transformers"
    stages = {**record.stages, name: record.stages[name].model_copy(update={"caveat": "dense fallback"})}
    of = read_evidence(record.model_copy(update={"stages": stages}), bench.store, bench.catalog)
    carrying = {(value.variant, value.place.name) for value in of.values if value.caveat == "dense fallback"}
    assert carrying == {(PRUNED, "batch 1"), (PRUNED, "batch 4")}


def only(of: Evidence, variant: Variant, name: str) -> Value:
    return next(value for value in of.values.of(variant) if value.place.name == name)


def test_excluded_items_stand_with_the_value_and_a_length_that_the_model_sets_in_its_protocol(bench: Bench) -> None:
    def leaving_out(request: WorkRequest, output: Path) -> WorkResult:
        result = keeping_worker(request, output)
        if not isinstance(result, EvaluateResult):
            return result
        if result.task == "wikitext2":
            return result.model_copy(update={"details": ProtocolDetails(scoring="segments", sequence_length=10)})
        left = with_items(result, output, questions([True, False] * 199), available=400)
        return left.model_copy(update={"excluded": {"too_long": 2}})

    of = evidence(bench, leaving_out, {**MANIFEST, "evaluate": {"tasks": ["wikitext2", "arc_easy"]}})
    assert only(of, DENSE, "wikitext2").protocol == "ppl/wikitext2-2048 of 10 tokens"
    assert only(of, DENSE, "arc_easy").excluded == {"too_long": 2}
    assert only(of, DENSE, "arc_easy").items == 398


@pytest.mark.parametrize(
    ("limit", "drawn", "scored", "protocol", "whole"),
    [
        (None, None, 400, "", None),
        (60, None, 60, " first 60", None),
        (None, 400, 50, ", 50 of 400 drawn", ""),
        (60, 400, 50, " first 60, 50 of 400 drawn", " first 60"),
        (60, 60, 50, " first 60, 50 of 60 drawn", " first 60"),
        (None, 400, 400, "", None),
    ],
)
def test_a_protocol_says_of_how_many_items_a_figure_is(
    bench: Bench, limit: int | None, drawn: int | None, scored: int, protocol: str, whole: str | None
) -> None:
    """Of a slice, also what all of the items that it was drawn from would be called."""
    asked = {"tasks": ["arc_easy"], "limit": limit or 400}
    record = bench.run(FakeRuntime(keeping_worker), {**MANIFEST, "evaluate": asked})
    results = stored_results(record, bench.store)
    name = "evaluate/tiny/dense/arc_easy"
    result = results[name].final.result
    assert isinstance(result, EvaluateResult)
    drawing = {"items": scored, "items_available": 400, "drawn_from": drawn}
    final = results[name].final.model_copy(update={"result": result.model_copy(update=drawing)})
    stage = results[name].model_copy(update={"final": final})
    parameters = {**record.stages[name].parameters, "limit": limit}
    stages = {**record.stages, name: record.stages[name].model_copy(update={"parameters": parameters})}
    outcomes = {stage.provenance.key: bench.store.outcomes.of(results[name])}
    values = collect(record.model_copy(update={"stages": stages}), {name: stage}, outcomes, bench.catalog)
    (value,) = values.of(DENSE)
    assert value.protocol == f"{result.protocol}{protocol}"
    assert value.slice_of == (None if whole is None else f"{result.protocol}{whole}")


def test_of_a_task_that_no_image_offers_any_more_that_is_said_and_all_else_stands(bench: Bench) -> None:
    record = bench.run(FakeRuntime(worker), ASKED)
    tasks = {name: one for name, one in bench.catalog.tasks.items() if name != "arc_easy"}
    catalog = copy.copy(bench.catalog)
    catalog.tasks = tasks
    of = read_evidence(record, bench.store, catalog, Resampling(resamples=50))
    rest = {place: value for place, value in DENSE_VALUES.items() if "arc_easy" not in place}
    assert found(of, DENSE) == rest
    place = Place(track=Track.PERFORMANCE, part="knowledge", name="arc_easy", model="tiny")
    assert of.values.why_none(place, DENSE) == "evaluate/tiny/dense/arc_easy: no image offers this task any more"


LOST = {
    "evaluate/tiny/sparsegpt-50%/arc_easy": {(1, "knowledge", "arc_easy")},
    "evaluate/tiny/sparsegpt-50%/wikitext2": {(1, "inference", "wikitext2"), (2, "perplexity", "wikitext2")},
    "evaluate/tiny/sparsegpt-50%/truthfulqa": {(6, "truthfulness", "truthfulqa")},
    "profile/tiny/sparsegpt-50%": {(4, "size", "disk_bytes"), (4, "macs", "macs")},
    "benchmark/tiny/sparsegpt-50%/transformers": {place for place in PRUNED_VALUES if place[0] == 5},
    "compress/tiny/sparsegpt-50%": set(PRUNED_VALUES),
}


DIRECTLY = [stage for stage in LOST if not stage.startswith("compress/")]
"""Those that a value is read from; after a compression others stop, too."""
MEMORY_BY = {
    "the profile": ("profile/tiny/sparsegpt-50%", "compress/tiny/sparsegpt-50%"),
    "transformers": ("benchmark/tiny/sparsegpt-50%/transformers", "compress/tiny/sparsegpt-50%"),
}


@pytest.mark.parametrize("stage", LOST)
def test_what_a_failed_stage_would_have_measured_is_missing_for_its_reason(bench: Bench, stage: str) -> None:
    def failing(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        if request.id == stage:
            return ErrorEvent(code=ErrorCode.INTERNAL, message="it broke", hint="mend it")
        return worker(request, output)

    of = evidence(bench, failing, ASKED)
    assert found(of, DENSE).keys() == DENSE_VALUES.keys()
    assert PRUNED_VALUES.keys() - found(of, PRUNED).keys() == LOST[stage]
    for track, part, name in LOST[stage]:
        place = Place(track=Track(track), part=part, name=name, model="tiny")
        assert (f"{stage}: it broke" if stage in DIRECTLY else stage) in of.values.why_none(place, PRUNED)
    for by in ("the profile", "transformers"):
        place = Place(track=Track.INFERENCE_CONSUMPTION, part=by, name="peak_memory_bytes", model="tiny")
        lacking = of.memories.get(place, PRUNED) is None
        assert lacking is (stage in MEMORY_BY[by])
        assert not lacking or stage in of.memories.why_none(place, PRUNED)


def test_each_thing_that_was_not_planned_is_missing_for_its_own_reason(bench: Bench) -> None:
    record = bench.run(FakeRuntime(worker), ASKED)
    lacking = {"arc_easy": Place(track=Track.PERFORMANCE, part="knowledge", name="arc_easy", model="tiny")}
    lacking["truthfulqa"] = Place(track=Track.TRUSTWORTHINESS, part="truthfulness", name="truthfulqa", model="tiny")
    refused = [
        NotPlanned(
            subject=Subject(model="tiny", family="tiny"),
            backend=REFERENCE_ENGINE,
            reason=Reason.DATA,
            message=f"no source has {task}",
            source="the image",
            operation=Operation.EVALUATE,
            task=task,
        )
        for task in lacking
    ]
    stages = {
        name: one for name, one in record.stages.items() if not name.endswith(tuple(f"dense/{one}" for one in lacking))
    }
    changed = record.model_copy(update={"stages": stages, "not_planned": tuple(refused)})
    values = read_evidence(changed, bench.store, bench.catalog).values
    assert {task: values.why_none(place, DENSE) for task, place in lacking.items()} == {
        task: f"no source has {task} (source: the image)" for task in lacking
    }


def test_another_engines_failure_is_no_reason_for_what_the_reference_lacks(bench: Bench) -> None:
    def failing(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        if isinstance(request, EvaluateRequest) and request.parameters.task == "arc_easy":
            by = request.parameters.engine
            return ErrorEvent(code=ErrorCode.INTERNAL, message=f"{by} broke", hint="mend it")
        return keeping_worker(request, output)

    asked = {**MANIFEST, "evaluate": {"tasks": ["wikitext2", "arc_easy"], "engine": ["vllm", "transformers"]}}
    of = evidence(bench, failing, asked)
    place = Place(track=Track.PERFORMANCE, part="knowledge", name="arc_easy", model="tiny")
    assert of.values.why_none(place, DENSE).endswith("transformers broke")


def test_the_report_says_how_it_averages_and_what_the_store_had(bench: Bench) -> None:
    first = bench.run(FakeRuntime(worker), ASKED)
    again = bench.run(FakeRuntime(worker), ASKED)
    made, known = (build_report(one, bench.store, bench.catalog, Mode.STRICT) for one in (first, again))
    assert {made.scoring.mode, known.scoring.mode} == {Mode.STRICT}
    assert {stage.status for stage in made.stages} == {StageStatus.DONE}
    assert {stage.status for stage in known.stages} == {StageStatus.CACHED}
    assert known.scoring.values == made.scoring.values
