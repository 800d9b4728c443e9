"""Two variants against each other: differences, their certainty, and what is not compared."""

import numpy as np
import pytest
import scipy.stats

from orchestrator.evidence.items import Items
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import DENSE
from orchestrator.score.comparing import Side, compare
from orchestrator.score.comparison import Comparison, Difference, corrected, mcnemar
from orchestrator.tracks import Mode, Track
from tests.support.measured_runs import GPTQ, WANDA, RunMaker, coin_flips

QUICK = Resampling(resamples=1000)
DENSE_FLIPS = coin_flips(0.7, 200, 1)
WANDA_FLIPS = [flip * keeps for flip, keeps in zip(DENSE_FLIPS, coin_flips(0.6, 200, 2), strict=True)]
GPTQ_FLIPS = [flip * keeps for flip, keeps in zip(DENSE_FLIPS, coin_flips(0.97, 200, 3), strict=True)]


def fill(maker, **fields):
    for variant, flips in ((DENSE, DENSE_FLIPS), (WANDA, WANDA_FLIPS), (GPTQ, GPTQ_FLIPS)):
        maker.add(variant, "piqa", flips, **fields)
        maker.observe(
            Track.TRAINING_CONSUMPTION,
            "time",
            "compress_seconds",
            variant,
            10.0,
            higher_is_better=False,
            protocol="cost",
        )
        maker.observe(
            Track.INFERENCE_CONSUMPTION, "macs", "macs", variant, 2.0, higher_is_better=False, protocol="macs"
        )
    return maker


@pytest.fixture
def maker(tmp_path):
    return fill(RunMaker(tmp_path))


def against(run, a, b, other=None):
    return compare(Side(run.evidence(), a), Side((other or run).evidence(), b), Mode.PAPER, QUICK)


def value(document, name):
    return next(one for one in document.values if one.place.name == name)


def track(document, which):
    return next(one for one in document.tracks if one.track is which)


def test_a_clear_difference_is_told(maker):
    document = against(maker, GPTQ, WANDA)
    piqa = value(document, "piqa")
    assert piqa.difference == pytest.approx(np.mean(GPTQ_FLIPS) - np.mean(WANDA_FLIPS))
    assert 0 < piqa.interval.low < piqa.difference < piqa.interval.high
    assert piqa.p_value < 0.01
    assert piqa.items == 200
    assert piqa.reason is None
    overall = track(document, Track.PERFORMANCE)
    assert overall.difference == pytest.approx(overall.a - overall.b)
    assert overall.interval.low > 0
    assert overall.values == 1
    assert document.warnings == ()


def test_turning_the_two_around_turns_the_signs(maker):
    straight, turned = value(against(maker, GPTQ, WANDA), "piqa"), value(against(maker, WANDA, GPTQ), "piqa")
    assert turned.difference == -straight.difference
    assert (turned.interval.low, turned.interval.high) == pytest.approx(
        (-straight.interval.high, -straight.interval.low), abs=0.011
    )
    assert turned.mcnemar.p_value == straight.mcnemar.p_value


def test_a_variant_does_not_differ_from_itself(maker):
    document = against(maker, WANDA, WANDA)
    for one in (value(document, "piqa"), track(document, Track.PERFORMANCE)):
        assert (one.difference, one.p_value) == (0, 1)
        assert (one.interval.low, one.interval.high) == (0, 0)


def test_costs_have_a_difference_and_no_interval(maker):
    macs = value(against(maker, GPTQ, WANDA), "macs")
    assert (macs.difference, macs.interval, macs.p_value) == (0.0, None, None)
    assert macs.reason == "not made of items, so there is nothing to resample"


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 2), (13, 4), (120, 80), (3, 900)])
def test_mcnemar_is_the_binomial_test_of_the_items_that_only_one_gets_right(only_a, only_b):
    both = 7
    a = np.array([1.0] * (both + only_a) + [0.0] * only_b)
    b = np.array([1.0] * both + [0.0] * only_a + [1.0] * only_b)
    left, right = (Items("items", (len(one),), one, np.ones_like(one), False) for one in (a, b))
    found = mcnemar(left, right)
    assert (found.only_a, found.only_b) == (only_a, only_b)
    expected = scipy.stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert found.p_value == pytest.approx(expected)


def test_p_is_the_exact_tests_where_each_item_is_right_or_wrong(maker):
    piqa = value(against(maker, GPTQ, WANDA), "piqa")
    assert piqa.p_value == piqa.mcnemar.p_value
    assert piqa.holm_p_value == piqa.p_value  # of the values of this comparison it is the only one with a test


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.04, None, 0.03], [0.06, None, 0.06]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([], []),
    ],
)
def test_many_tests_are_corrected_by_holms_step_down(found, expected):
    adjusted = corrected([Difference(p_value=one) for one in found])
    assert [one.p_value for one in adjusted] == found
    assert [one.holm_p_value for one in adjusted] == [None if one is None else pytest.approx(one) for one in expected]


def test_mcnemar_is_not_for_items_that_can_be_partly_right():
    partly = Items("items", (3,), np.array([0.5, 1.0, 0.0]), np.ones(3), False)
    assert mcnemar(partly, partly) is None


def test_the_same_variant_of_a_second_run_is_paired_item_by_item(maker, tmp_path):
    other = fill(RunMaker(tmp_path, run="run-2"))
    document = against(maker, WANDA, WANDA, other)
    piqa = value(document, "piqa")
    assert (piqa.difference, piqa.interval.low, piqa.interval.high) == (0, 0, 0)
    assert document.warnings == ()
    assert track(document, Track.TRAINING_CONSUMPTION).reason == "each is relative to the methods of its own run"


def test_other_limits_are_refused_with_the_reason(maker, tmp_path):
    other = fill(RunMaker(tmp_path, run="run-2"), protocol="p first 200")
    document = against(maker, WANDA, GPTQ, other)
    piqa = value(document, "piqa")
    assert piqa.difference is None
    assert piqa.reason == "measured by different protocols: 'p' and 'p first 200'"
    assert piqa.reason in track(document, Track.PERFORMANCE).reason
    assert any("piqa of tiny: measured by different protocols" in warning for warning in document.warnings)


def test_another_checkpoint_of_the_same_name_is_refused(maker, tmp_path):
    other = fill(RunMaker(tmp_path, run="run-2"))
    other.checkpoints = {"tiny": "another digest"}
    document = against(maker, WANDA, GPTQ, other)
    assert {one.reason for one in document.values} == {"tiny is not the same checkpoint in both runs"}
    assert all(one.difference is None for one in document.tracks)


def test_other_items_are_refused(maker, tmp_path):
    other = fill(RunMaker(tmp_path, run="run-2"), rows="another row")
    assert value(against(maker, WANDA, GPTQ, other), "piqa").reason == "not of the same items"


def test_another_device_is_warned_of_and_its_timings_are_refused(maker, tmp_path):
    other = fill(RunMaker(tmp_path, run="run-2", device="another processor"))
    document = against(maker, WANDA, GPTQ, other)
    assert "run-1 was measured on a processor, run-2 on another processor" in document.warnings
    assert (
        value(document, "compress_seconds").reason == "measured on different devices: a processor and another processor"
    )
    assert value(document, "piqa").difference is not None
    assert value(document, "macs").difference == 0


def test_a_dense_model_that_came_out_differently_is_warned_of(maker, tmp_path):
    other = RunMaker(tmp_path, run="run-2")
    other.add(DENSE, "piqa", coin_flips(0.65, 200, 9))
    other.add(GPTQ, "piqa", GPTQ_FLIPS)
    document = against(maker, WANDA, GPTQ, other)
    assert any(
        "the dense model has" in warning and "each ratio is to its own" in warning for warning in document.warnings
    )
    assert value(document, "piqa").difference is not None


def test_scores_of_different_coverage_are_compared_over_what_both_have(maker):
    maker.add(DENSE, "arc_easy", coin_flips(0.8, 100, 4))
    maker.add(WANDA, "arc_easy", coin_flips(0.3, 100, 5))
    document = against(maker, GPTQ, WANDA)
    overall, alone = track(document, Track.PERFORMANCE), value(document, "piqa")
    assert overall.values == 1
    assert overall.b == pytest.approx(100 * alone.b / np.mean(DENSE_FLIPS))
    assert document.warnings == (
        "OM_perf: compared over the values that both have (1); the printed scores rest on 1 for gptq W4A16, "
        "2 for wanda 50%",
    )
    assert value(document, "arc_easy").reason == "not measured for gptq W4A16"


def test_values_that_no_score_counts_come_last_in_the_order_they_were_measured(maker):
    names = [f"extra {number}" for number in range(12)]
    for variant in (DENSE, WANDA, GPTQ):
        for name in names:
            maker.observe(Track.PERFORMANCE, "other", name, variant, 1.0, higher_is_better=True)
    document = against(maker, GPTQ, WANDA)
    found = [one.place.name for one in document.values if one.place.track is Track.PERFORMANCE]
    assert found == ["piqa", *names]


def test_only_the_tracks_asked_for_are_compared(maker):
    run = maker.evidence()
    document = compare(Side(run, GPTQ), Side(run, WANDA), Mode.PAPER, QUICK, (Track.INFERENCE_CONSUMPTION,))
    assert {*(one.track for one in document.tracks), *(one.place.track for one in document.values)} == {
        Track.INFERENCE_CONSUMPTION
    }


def test_the_document_survives_json(maker):
    document = against(maker, GPTQ, WANDA)
    assert Comparison.model_validate_json(document.model_dump_json()) == document


@pytest.mark.parametrize("name", ["wanda 50%", "wanda-50%", "wanda", " wanda  50% "])
def test_a_variant_goes_by_its_label_its_name_in_stages_or_its_method(maker, name):
    assert maker.evidence().variant(name) == WANDA


def dropping(flips, *places):
    return [None if place in places else flip for place, flip in enumerate(flips)]


def test_two_variants_are_compared_over_the_items_that_both_have(tmp_path):
    run = RunMaker(tmp_path)
    run.add(DENSE, "piqa", DENSE_FLIPS)
    run.add(WANDA, "piqa", dropping(WANDA_FLIPS, 3))
    run.add(GPTQ, "piqa", dropping(GPTQ_FLIPS, 7))
    document = against(run, GPTQ, WANDA)
    piqa = value(document, "piqa")
    kept = [place for place in range(200) if place not in (3, 7)]
    left, right = ([flips[place] for place in kept] for flips in (GPTQ_FLIPS, WANDA_FLIPS))
    assert piqa.items == 198
    assert (piqa.a, piqa.b) == (pytest.approx(np.mean(left)), pytest.approx(np.mean(right)))
    assert piqa.difference == pytest.approx(np.mean(left) - np.mean(right))
    assert piqa.own_a == pytest.approx(np.mean(GPTQ_FLIPS[:7] + GPTQ_FLIPS[8:]))
    assert piqa.own_b == pytest.approx(np.mean(WANDA_FLIPS[:3] + WANDA_FLIPS[4:]))
    assert piqa.interval.low < piqa.difference < piqa.interval.high
    assert piqa.mcnemar.only_a == sum(one > other for one, other in zip(left, right, strict=True))
    assert piqa.mcnemar.only_b == sum(one < other for one, other in zip(left, right, strict=True))
    assert any("wanda 50%: 1 of 200 items have no outcome" in warning for warning in document.warnings)


def test_over_all_items_no_figure_of_its_own_is_told(maker):
    piqa = value(against(maker, GPTQ, WANDA), "piqa")
    assert (piqa.own_a, piqa.own_b) == (None, None)


def test_a_figure_over_too_few_survivors_is_not_compared(tmp_path):
    run = RunMaker(tmp_path)
    run.add(DENSE, "piqa", DENSE_FLIPS)
    run.add(WANDA, "piqa", dropping(WANDA_FLIPS, 1, 2, 3))
    run.add(GPTQ, "piqa", GPTQ_FLIPS)
    piqa = value(against(run, GPTQ, WANDA), "piqa")
    assert piqa.difference is None
    assert piqa.reason.startswith("wanda 50%: 3 of 200 items have no outcome")
