"""A run whose costs were measured in rounds, from its stored results to what is printed of it."""

import random
from collections import Counter

import pytest

from harness.contract import BenchmarkResult, CompressResult, Memory, ProfileResult
from orchestrator.evidence.reading import read_evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import DENSE, Variant
from orchestrator.report import render_html, render_markdown, summary_text
from orchestrator.report.answers import comparison_blocks, score_blocks
from orchestrator.report.building import build_report
from orchestrator.score.comparing import Side, compare
from orchestrator.score.scores import score_run
from orchestrator.tracks import Mode, Place, Track
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker, is_pruned

PRUNED = Variant(method="sparsegpt", setting="50%")
WANDA = Variant(method="wanda", setting="50%")
TWO_METHODS = [{"method": "sparsegpt", "setting": "50%"}, {"method": "wanda", "setting": "50%"}]
ROUNDS = {"benchmark": 3, "profile": 3}
COSTS = {**MANIFEST, "evaluate": None, "benchmark": {"backends": ["transformers"], "batch_sizes": [1, 4]}}
HARD, INFERENCE, TRAINING = Track.HARDWARE_ACCELERATION, Track.INFERENCE_CONSUMPTION, Track.TRAINING_CONSUMPTION


SEED = 1


class NoisyWorker:
    """A pruned model is `faster` by a factor; every process is off by some percent, by what it is asked for alone."""

    def __init__(self, faster=1.0, chance=0.05):
        self._faster, self._chance, self._asked = faster, chance, Counter[str]()

    def __call__(self, request, output):
        result = honest_worker(request, output)
        self._asked[request.id] += 1
        dice = random.Random(f"{SEED} {request.id} {self._asked[request.id]}")
        off = 1 + self._chance * dice.uniform(-1, 1)
        if isinstance(result, BenchmarkResult):
            speed = 20 * off * (self._faster if is_pruned(request) else 1.0)
            update = {"decode_tokens_per_second": speed, "samples": (speed,)}
            return result.model_copy(update={"speeds": tuple(one.model_copy(update=update) for one in result.speeds)})
        if isinstance(result, ProfileResult):
            memory = Memory(peak_memory_bytes=int(1e9 * off), method="peak-rss")
            return result.model_copy(update={"memory": memory})
        if isinstance(result, CompressResult):
            cost = result.cost.model_copy(update={"compress_seconds": 2 * off})
            return result.model_copy(update={"cost": cost})
        return result


def measured(bench: Bench, worker, rounds=ROUNDS, **changed):
    record = bench.run(FakeRuntime(worker), {**COSTS, "rounds": rounds, **changed})
    assert record.complete
    return record, read_evidence(record, bench.store, bench.catalog, Resampling(resamples=2000))


def plain(blocks):
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=120, color_system=None)
    for block in blocks:
        console.print(block)
    return console.file.getvalue()


def test_a_model_that_is_as_fast_as_dense_cannot_be_told_apart_anywhere(bench: Bench) -> None:
    record, evidence = measured(bench, NoisyWorker())
    document = score_run(evidence)
    hard = document.score(PRUNED, HARD)
    assert hard.interval.low < 100 < hard.interval.high
    assert hard.floor.low < 100 < hard.floor.high
    assert hard.like_dense
    assert all(ratio.like_dense for ratio in hard.ratios)
    dense = document.score(DENSE, HARD)
    assert dense.floor is not None
    assert {dense.like_dense, *(ratio.like_dense for ratio in dense.ratios)} == {None}, "the reference is like nothing"
    assert "≈ dense" in plain(score_blocks(document))
    report = build_report(record, bench.store, bench.catalog)
    for render in (render_markdown, render_html, summary_text):
        assert "≈ dense" in render(report)
    assert "waiting 0%" in render_html(report)


def test_a_true_difference_is_told(bench: Bench) -> None:
    _, evidence = measured(bench, NoisyWorker(faster=2.0))
    hard = score_run(evidence).score(PRUNED, HARD)
    assert 150 < hard.interval.low < hard.value < hard.interval.high
    assert hard.like_dense is False


def test_a_value_has_every_measurement_and_is_their_geometric_mean(bench: Bench) -> None:
    _, evidence = measured(bench, NoisyWorker())
    value = evidence.values.get(Place(track=HARD, part="transformers", name="batch 4", model="tiny"), DENSE)
    assert [one.turn.label for one in value.measurements] == [
        f"round-{number}{again}" for number in (1, 2, 3) for again in ("", "-again")
    ]
    product = 1.0
    for one in value.measurements:
        product *= one.value
    assert value.value == pytest.approx(product ** (1 / 6))
    assert {one.load.pressure_fraction for one in value.measurements} == {0.0}
    assert value.interval.low < value.value < value.interval.high


def test_macs_of_zeros_are_counted_and_lift_a_score_beyond_the_floor_of_memory(bench: Bench) -> None:
    _, evidence = measured(bench, NoisyWorker())
    score = score_run(evidence).score(PRUNED, INFERENCE)
    ratios = {ratio.place.name: ratio for ratio in score.ratios}
    assert ratios["peak_memory_bytes"].like_dense
    assert ratios["macs"].like_dense is False
    assert (ratios["macs"].interval, ratios["macs"].interval_reason) == (None, "counted, so that it has no spread")
    assert score.like_dense is False
    assert score.interval.low < score.value < score.interval.high


def test_one_round_has_no_interval_and_says_so(bench: Bench) -> None:
    record, evidence = measured(bench, NoisyWorker(), rounds={"benchmark": 1, "profile": 1})
    document = score_run(evidence)
    for track in (HARD, INFERENCE, TRAINING):
        score = document.score(PRUNED, track)
        assert (score.interval, score.interval_reason) == (None, "one round: no interval")
        assert score.like_dense is None
    text = render_markdown(build_report(record, bench.store, bench.catalog))
    assert " without an interval: one round: no interval" in text
    assert "OM_train, OM_inf and OM_hard were measured in one round: without an interval" in text
    assert "(noise not known)" in text


def test_compressions_in_rounds_show_what_equally_costly_methods_cannot_be_told_by(bench: Bench) -> None:
    record, evidence = measured(bench, NoisyWorker(), rounds={"compress": 3}, compress=TWO_METHODS)
    document = score_run(evidence)
    costliest, other = sorted((document.score(one, TRAINING) for one in (PRUNED, WANDA)), key=lambda one: one.value)
    for score in (costliest, other):
        assert score.interval.low <= score.value <= score.interval.high
        assert score.floor.low <= 100 < score.floor.high
    assert costliest.value == 100 < other.value < other.floor.high
    assert (costliest.like_dense, other.like_dense) == (None, True)
    for ratio in other.ratios:
        assert ratio.like_dense is (None if ratio.place.name == "peak_memory_bytes" else True)
    text = render_markdown(build_report(record, bench.store, bench.catalog))
    assert "≈ the costliest marks those within what equally costly methods would show" in text


def test_a_method_that_costs_less_beyond_chance_is_told(bench: Bench) -> None:
    def half(request, output):
        result = NoisyWorker()(request, output)
        if not isinstance(result, CompressResult) or request.parameters.method != "wanda":
            return result
        cost = result.cost.model_copy(update={"compress_seconds": result.cost.compress_seconds / 2})
        return result.model_copy(update={"cost": cost})

    _, evidence = measured(bench, half, rounds={"compress": 3}, compress=TWO_METHODS)
    score = score_run(evidence).score(WANDA, TRAINING)
    assert score.value > score.floor.high
    assert score.like_dense is False


def test_a_comparison_marks_costs_that_chance_may_tell_apart(bench: Bench) -> None:
    _, evidence = measured(bench, NoisyWorker())
    document = compare(Side(evidence, PRUNED), Side(evidence, DENSE), Mode.PAPER, Resampling(resamples=2000))
    marks = {one.track: one.alike for one in document.tracks}
    assert (marks[HARD], marks[INFERENCE]) == (True, False)
    assert "≈ " in plain(comparison_blocks(document))


def test_a_variant_that_comes_later_measures_nothing_else_again_and_is_no_pair(bench: Bench) -> None:
    measured(bench, NoisyWorker())
    later = FakeRuntime(NoisyWorker())
    record = bench.run(later, {**COSTS, "rounds": ROUNDS, "compress": TWO_METHODS})
    assert {request.id.split("/")[2] for request in later.requests if request.id.count("/") > 1} == {"wanda-50%"}
    evidence = read_evidence(record, bench.store, bench.catalog, Resampling(resamples=2000))
    beside = {
        value.variant.label: evidence.draws.rounds.beside_dense(value) for value in evidence.values.at(BATCH).values()
    }
    assert beside == {"dense": True, "sparsegpt 50%": True, "wanda 50%": False}
    assert any("wanda 50% was not measured beside dense" in one for one in score_run(evidence).warnings)


BATCH = Place(track=HARD, part="transformers", name="batch 1", model="tiny")
