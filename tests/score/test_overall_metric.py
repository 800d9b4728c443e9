"""Overall metrics of small, hand-made runs."""

import math

import pytest

from orchestrator.evidence.value import DENSE, BadValue, Gap, Value, Values, Variant
from orchestrator.score import overall
from orchestrator.score.overall import score_all
from orchestrator.tracks import TRACK_1_TASKS, Mode, Place, Track, expect

WANDA = Variant(method="wanda", setting="50%")
GPTQ = Variant(method="gptq", setting="W8A16")


def score(expectation, variant, values, *, gaps=(), mode=Mode.PAPER):
    return overall.score(expectation, variant, Values(values, gaps), mode=mode)


def observe(track, part, name, variant, value, *, model="m", higher_is_better=True, **fields):
    return Value(
        place=Place(track=track, part=part, name=name, model=model),
        variant=variant,
        value=value,
        higher_is_better=higher_is_better,
        **fields,
    )


def trust(variant, robustness, truthfulness):
    return [
        observe(6, "robustness", "advglue", variant, robustness),
        observe(6, "truthfulness", "truthfulqa", variant, truthfulness),
    ]


def perplexities(variant, values, **fields):
    return [
        observe(2, "perplexity", "wikitext2", variant, value, model=model, higher_is_better=False, **fields)
        for model, value in values.items()
    ]


def costs(variant, seconds, memory_bytes, **fields):
    return [
        observe(3, "time", "compress_seconds", variant, seconds, higher_is_better=False, **fields),
        observe(3, "memory", "peak_memory_bytes", variant, memory_bytes, higher_is_better=False, **fields),
    ]


def test_a_score_is_the_root_of_the_mean_squared_ratios():
    observations = trust(DENSE, 40.0, 50.0) + trust(WANDA, 30.0, 50.0)
    result = score(expect(Track.TRUSTWORTHINESS, ["m"]), WANDA, observations)
    assert result.value == pytest.approx(100 * math.sqrt((0.75**2 + 1) / 2))
    assert result.part("robustness").value == pytest.approx(75)
    assert not result.is_partial
    assert result.coverage.missing == ()


def test_parts_weigh_the_same_however_many_data_sets_they_have():
    names = {"knowledge": TRACK_1_TASKS[:3], "inference": TRACK_1_TASKS[3:]}
    observations = [
        observe(1, part, name, variant, 50.0 * factor, higher_is_better=name != "wikitext2")
        for part, tasks in names.items()
        for name in tasks
        for variant, factor in ((DENSE, 1.0), (WANDA, 0.5 if part == "knowledge" else 1.0))
    ]
    result = score(expect(Track.PERFORMANCE, ["m"]), WANDA, observations)
    assert result.value == pytest.approx(100 * math.sqrt((0.25 + 1) / 2))


def test_a_perplexity_enters_as_dense_over_compressed():
    observations = perplexities(DENSE, {"m": 5.0}) + perplexities(WANDA, {"m": 10.0})
    assert score(expect(Track.GENERALIZATION, ["m"]), WANDA, observations).value == pytest.approx(50)


def test_strict_mode_averages_within_families_first():
    families = {"a1": "a", "a2": "a", "a3": "a", "b1": "b"}
    dense = perplexities(DENSE, dict.fromkeys(families, 10.0))
    halved = perplexities(WANDA, {"a1": 10.0, "a2": 10.0, "a3": 10.0, "b1": 20.0})
    expectation = expect(Track.GENERALIZATION, list(families), families=families)
    paper = score(expectation, WANDA, dense + halved)
    strict = score(expectation, WANDA, dense + halved, mode=Mode.STRICT)
    assert paper.value == pytest.approx(100 * math.sqrt((3 + 0.25) / 4))
    assert strict.value == pytest.approx(100 * math.sqrt((1 + 0.25) / 2))
    assert [(part.name, part.values) for part in strict.parts] == [("a", 3), ("b", 1)]


def test_strict_mode_changes_no_other_track():
    observations = trust(DENSE, 40.0, 50.0) + trust(WANDA, 30.0, 41.0)
    expectation = expect(Track.TRUSTWORTHINESS, ["m"])
    assert (
        score(expectation, WANDA, observations, mode=Mode.STRICT).value == score(expectation, WANDA, observations).value
    )


def test_training_cost_is_relative_to_the_costliest_method_and_says_so():
    observations = costs(WANDA, 10.0, 4.0) + costs(GPTQ, 40.0, 2.0)
    expectation = expect(Track.TRAINING_CONSUMPTION, ["m"])
    wanda, gptq = (score(expectation, variant, observations) for variant in (WANDA, GPTQ))
    assert wanda.value == pytest.approx(100 * math.sqrt((16 + 1) / 2))
    assert gptq.value == pytest.approx(100 * math.sqrt((1 + 4) / 2))
    assert wanda.coverage.notes == (
        "relative to the methods in this run: the greatest value is taken over gptq W8A16, wanda 50%",
    )


def test_a_single_methods_training_cost_is_flagged_as_100_by_construction():
    result = score(expect(Track.TRAINING_CONSUMPTION, ["m"]), WANDA, costs(WANDA, 10.0, 4.0))
    assert result.value == 100
    assert "100 by construction" in result.coverage.notes[0]


def test_the_dense_model_has_no_training_cost():
    result = score(expect(Track.TRAINING_CONSUMPTION, ["m"]), DENSE, costs(WANDA, 10.0, 4.0))
    assert result.value is None
    assert result.reason == "the dense model is not compressed, so it costs nothing to make"


def test_costs_measured_in_another_way_are_no_rivals():
    cpu = costs(WANDA, 10.0, 4.0, protocol="peak-rss")
    cuda = costs(GPTQ, 40.0, 8.0, protocol="cuda-allocator")
    result = score(expect(Track.TRAINING_CONSUMPTION, ["m"]), WANDA, cpu + cuda)
    assert result.value == 100


def test_each_backend_is_a_part_of_the_speed_score():
    observations = [
        observe(5, backend, f"batch {size}", variant, speed)
        for backend, ratio in (("vllm", 2.0), ("mlc-llm", 1.0))
        for size in (1, 8)
        for variant, speed in ((DENSE, 10.0), (GPTQ, 10.0 * ratio))
    ]
    expectation = expect(Track.HARDWARE_ACCELERATION, ["m"], backends=["vllm", "mlc-llm"], batch_sizes=[1, 8])
    result = score(expectation, GPTQ, observations)
    assert [part.value for part in result.parts] == pytest.approx([200, 100])
    assert result.value == pytest.approx(100 * math.sqrt(2.5))
    assert result.coverage.names == ("vllm batch 1", "vllm batch 8", "mlc-llm batch 1", "mlc-llm batch 8")


def test_a_missing_data_set_makes_the_score_partial_and_keeps_its_reason():
    observations = [
        observe(1, "knowledge", name, variant, value)
        for name in ("mmlu", "arc_easy")
        for variant, value in ((DENSE, 60.0), (WANDA, 30.0))
    ]
    gap = Gap(variant=WANDA, track=Track.PERFORMANCE, name="piqa", reason="out of memory")
    result = score(expect(Track.PERFORMANCE, ["m"]), WANDA, observations, gaps=[gap])
    assert result.value == pytest.approx(50)
    assert result.is_partial
    assert result.coverage.summary == "2 of 9 data sets"
    assert result.part("inference").value is None
    reasons = {value.place.name: value.reason for value in result.coverage.missing}
    assert reasons["piqa"] == "out of memory"
    assert reasons["arc_challenge"] == "not measured"
    assert len(reasons) == 7


def test_a_missing_dense_value_is_named_as_the_reason():
    gap = Gap(variant=DENSE, name="truthfulqa", reason="the data set could not be had")
    observations = [*trust(DENSE, 40.0, 50.0)[:1], *trust(WANDA, 30.0, 25.0)]
    result = score(expect(Track.TRUSTWORTHINESS, ["m"]), WANDA, observations, gaps=[gap])
    assert result.value == pytest.approx(75)
    assert result.coverage.missing[0].reason == "no dense value to compare with: the data set could not be had"


def test_coverage_counts_models_as_well_as_data_sets():
    observations = perplexities(DENSE, {"a": 5.0, "b": 6.0}) + perplexities(WANDA, {"a": 10.0})
    result = score(expect(Track.GENERALIZATION, ["a", "b"]), WANDA, observations)
    assert result.coverage.summary == "1 of 1 data sets, 1 of 2 models (1 of 2 values)"


def test_nothing_to_compute_from_gives_no_score_but_a_reason():
    gap = Gap(variant=WANDA, reason="compress failed: out of memory")
    result = score(expect(Track.TRUSTWORTHINESS, ["m"]), WANDA, trust(DENSE, 40.0, 50.0), gaps=[gap])
    assert result.value is None
    assert result.reason == "compress failed: out of memory"
    assert not result.is_partial


def test_a_track_without_models_or_backends_was_not_asked_for():
    result = score(expect(Track.HARDWARE_ACCELERATION, ["m"]), WANDA, [])
    assert result.value is None
    assert result.reason == "nothing was asked for in this track"


@pytest.mark.parametrize(
    ("dense", "compressed", "reason"),
    [
        (0.0, 30.0, "the dense value is 0, so that there is no ratio to it"),
        (40.0, math.nan, "the value is not a number"),
        (math.nan, 30.0, "the dense value is not a number"),
        (40.0, -1.0, "the value is negative (-1)"),
        (40.0, math.inf, "the value is infinite"),
        (math.inf, 30.0, "the dense value is infinite"),
        (1e-14, 30.0, "the ratio of 30 to 1e-14 is beyond 1e+12"),
    ],
)
def test_a_bad_accuracy_is_excluded_with_its_reason(dense, compressed, reason):
    observations = trust(DENSE, dense, 50.0) + trust(WANDA, compressed, 50.0)
    result = score(expect(Track.TRUSTWORTHINESS, ["m"]), WANDA, observations)
    assert result.value == pytest.approx(100)
    assert result.is_partial
    assert result.coverage.missing[0].reason == reason


@pytest.mark.parametrize(
    ("dense", "compressed", "reason"),
    [
        (5.0, -3.0, "the value is negative (-3)"),
        (5.0, 0.0, "the value is 0, so that there is no ratio to it"),
        (0.0, 5.0, "the dense value is 0, and lower is better"),
        (math.inf, 5.0, "the dense value is infinite"),
    ],
)
def test_a_bad_perplexity_leaves_no_score(dense, compressed, reason):
    observations = perplexities(DENSE, {"m": dense}) + perplexities(WANDA, {"m": compressed})
    result = score(expect(Track.GENERALIZATION, ["m"]), WANDA, observations)
    assert result.value is None
    assert result.reason == reason


def test_a_broken_models_infinite_perplexity_counts_as_the_worst_there_is():
    observations = perplexities(DENSE, {"a": 5.0, "b": 5.0}) + perplexities(WANDA, {"a": 5.0, "b": math.inf})
    result = score(expect(Track.GENERALIZATION, ["a", "b"]), WANDA, observations)
    assert result.value == pytest.approx(100 * math.sqrt(0.5))
    assert not result.is_partial


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_cost_is_excluded_and_is_nobodys_reference(cost):
    observations = costs(WANDA, 10.0, 4.0) + costs(GPTQ, cost, 2.0)
    expectation = expect(Track.TRAINING_CONSUMPTION, ["m"])
    assert score(expectation, WANDA, observations).part("time").value == 100
    gptq = score(expectation, GPTQ, observations)
    assert gptq.part("time").value is None
    assert "is not a measured cost" in gptq.coverage.missing[0].reason


def test_values_of_different_protocols_are_not_compared():
    dense = perplexities(DENSE, {"m": 5.47}, protocol="ppl/2048")
    wanda = perplexities(WANDA, {"m": 6.42}, protocol="ppl/4096")
    result = score(expect(Track.GENERALIZATION, ["m"]), WANDA, dense + wanda)
    assert result.value is None
    assert result.reason == "measured by protocol 'ppl/4096', but the dense model by 'ppl/2048'"


def test_a_value_outside_the_track_is_named_and_not_counted():
    extra = [observe(6, "robustness", "anli", variant, 1.0) for variant in (DENSE, WANDA)]
    observations = trust(DENSE, 40.0, 50.0) + trust(WANDA, 40.0, 50.0) + extra
    result = score(expect(Track.TRUSTWORTHINESS, ["m"]), WANDA, observations)
    assert result.value == pytest.approx(100)
    assert result.coverage.notes == ("not counted, being no part of this score: robustness/anli of m",)


def test_two_values_for_one_place_are_refused():
    with pytest.raises(BadValue, match="robustness/advglue of m is given twice for wanda 50%") as refused:
        score(expect(Track.TRUSTWORTHINESS, ["m"]), WANDA, trust(WANDA, 1.0, 1.0) * 2)
    assert refused.value.hint


def test_values_that_disagree_on_what_is_better_are_refused():
    lower = observe(6, "robustness", "advglue", DENSE, 1.0, higher_is_better=False)
    with pytest.raises(BadValue, match="disagree on what is better"):
        score(expect(Track.TRUSTWORTHINESS, ["m"]), WANDA, [lower, *trust(WANDA, 1.0, 1.0)])


def test_all_variants_that_occur_are_scored_in_all_tracks_dense_first():
    gap = Gap(variant=GPTQ, reason="compress failed")
    tracks = [expect(Track.TRAINING_CONSUMPTION, ["m"]), expect(Track.TRUSTWORTHINESS, ["m"])]
    scores = score_all(tracks, Values(trust(WANDA, 1.0, 1.0) + trust(DENSE, 1.0, 1.0), [gap]))
    assert [(entry.variant, entry.track.value) for entry in scores] == [
        (DENSE, 3),
        (DENSE, 6),
        (WANDA, 3),
        (WANDA, 6),
        (GPTQ, 3),
        (GPTQ, 6),
    ]
    assert scores[-1].reason == "compress failed"


def test_every_term_of_a_score_is_kept():
    observations = trust(DENSE, 40.0, 50.0) + trust(WANDA, 30.0, 50.0)
    result = score(expect(Track.TRUSTWORTHINESS, ["m"]), WANDA, observations)
    assert [(term.place.name, term.reference, term.ratio) for term in result.ratios] == [
        ("advglue", 40.0, 0.75),
        ("truthfulqa", 50.0, 1.0),
    ]
