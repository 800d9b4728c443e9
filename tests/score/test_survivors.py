"""Figures over the items that are left: over the common ones against each other, marked, withheld if many went."""

import math

import numpy as np
import pytest

from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import DENSE
from orchestrator.score.scores import score_run
from orchestrator.tracks import Mode, Track
from tests.support.measured_runs import GPTQ, WANDA, RunMaker, coin_flips

QUICK = Resampling(resamples=500)
SEGMENTS = 200
LOSSES = [2.0 + 0.01 * (number % 13) for number in range(SEGMENTS)]
WORSE = [loss * 1.1 + 0.001 * (number % 5) for number, loss in enumerate(LOSSES)]


def without(outcomes, *places):
    return [None if place in places else one for place, one in enumerate(outcomes)]


def perplexity(losses, *left_out):
    return math.exp(np.mean([loss for place, loss in enumerate(losses) if place not in left_out]))


def term(document, variant, track=Track.GENERALIZATION):
    (ratio,) = [one for one in document.score(variant, track).ratios if one.place.name in ("wikitext2", "piqa")]
    return ratio


@pytest.fixture
def maker(tmp_path):
    return RunMaker(tmp_path)


def test_the_ratio_is_over_the_items_that_both_have_and_each_figure_over_its_own(maker):
    maker.add(DENSE, "wikitext2", without(LOSSES, 3))
    maker.add(WANDA, "wikitext2", without(WORSE, 7))
    document = score_run(maker.evidence(), Mode.PAPER)
    ratio = term(document, WANDA)
    assert ratio.items == SEGMENTS - 2
    assert ratio.value == pytest.approx(perplexity(WORSE, 3, 7), rel=1e-9)
    assert ratio.reference == pytest.approx(perplexity(LOSSES, 3, 7), rel=1e-9)
    assert ratio.ratio == pytest.approx(perplexity(LOSSES, 3, 7) / perplexity(WORSE, 3, 7), rel=1e-9)
    assert document.score(WANDA, Track.GENERALIZATION).value == pytest.approx(100 * ratio.ratio)
    own = {value.variant: value for value in document.values if value.place.track is Track.GENERALIZATION}
    assert own[WANDA].value == pytest.approx(perplexity(WORSE, 7), rel=1e-9)
    assert own[DENSE].value == pytest.approx(perplexity(LOSSES, 3), rel=1e-9)
    assert term(document, DENSE).ratio == 1


def test_as_many_items_but_others_are_not_taken_for_the_same(maker):
    """The two figures over their own items give another ratio."""
    spread = [1.0 + (number == 3) * 50.0 for number in range(SEGMENTS)]
    maker.add(DENSE, "wikitext2", without(spread, 3))
    maker.add(WANDA, "wikitext2", without(spread, 7))
    document = score_run(maker.evidence(), Mode.PAPER)
    assert term(document, WANDA).ratio == pytest.approx(1.0, rel=1e-12)
    own = {value.variant: value.value for value in document.values if value.place.track is Track.GENERALIZATION}
    assert own[DENSE] / own[WANDA] < 0.8


def test_where_nothing_is_lost_nothing_is_paired_anew(maker):
    maker.add(DENSE, "wikitext2", LOSSES)
    maker.add(WANDA, "wikitext2", WORSE)
    evidence = maker.evidence()
    assert [value.paired for value in evidence.values] == [None] * 4
    document = score_run(evidence, Mode.PAPER)
    assert term(document, WANDA).items == SEGMENTS
    assert document.warnings == ()


def test_the_common_items_have_an_interval_of_their_own(maker):
    maker.add(DENSE, "wikitext2", without(LOSSES, 3))
    maker.add(WANDA, "wikitext2", without(WORSE, 7))
    maker.add(GPTQ, "wikitext2", without(WORSE, 3))
    document = score_run(maker.evidence(QUICK), Mode.PAPER)
    for variant in (WANDA, GPTQ):
        ratio = term(document, variant)
        assert ratio.interval.low < ratio.ratio < ratio.interval.high
        assert ratio.interval.high - ratio.interval.low < 0.01


def test_groups_are_averaged_over_their_common_items(maker):
    groups = ["a"] * 100 + ["b"] * 300
    flips = coin_flips(0.6, 400, 1)
    maker.add(DENSE, "piqa", flips, groups=groups)
    maker.add(WANDA, "piqa", without(flips, 5, 250), groups=groups)
    ratio = term(score_run(maker.evidence(), Mode.PAPER), WANDA, Track.PERFORMANCE)
    assert (ratio.items, ratio.ratio) == (398, pytest.approx(1.0, rel=1e-12))


@pytest.mark.parametrize("broken", [DENSE, WANDA])
def test_more_than_one_in_a_hundred_gone_is_withheld_with_the_reason(maker, broken):
    gone = range(3)
    maker.add(DENSE, "wikitext2", without(LOSSES, *gone) if broken == DENSE else LOSSES)
    maker.add(WANDA, "wikitext2", without(WORSE, *gone) if broken == WANDA else WORSE)
    document = score_run(maker.evidence(), Mode.PAPER)
    score = document.score(WANDA, Track.GENERALIZATION)
    assert score.value is None
    assert "3 of 200 items have no outcome (3 log_likelihood_not_finite): more than 1%" in score.reason
    assert score.reason.startswith("the dense value: ") == (broken == DENSE)
    assert len(document.values) == 4


def test_one_in_a_hundred_is_not_more_than_that(maker):
    maker.add(DENSE, "wikitext2", LOSSES)
    maker.add(WANDA, "wikitext2", without(WORSE, 0, 1))
    assert score_run(maker.evidence(), Mode.PAPER).score(WANDA, Track.GENERALIZATION).value is not None


def test_each_figure_over_survivors_is_warned_of(maker):
    maker.add(DENSE, "wikitext2", without(LOSSES, 3))
    maker.add(WANDA, "wikitext2", without(WORSE, 7))
    maker.add(GPTQ, "wikitext2", without(WORSE, *range(12)))
    warnings = [one for one in score_run(maker.evidence(), Mode.PAPER).warnings if "no outcome" in one]
    reason = "(1 log_likelihood_not_finite)"
    assert warnings == [
        f"wikitext2 of tiny, dense: 1 of 200 items have no outcome {reason}; the figure is one over the others",
        f"wikitext2 of tiny, wanda 50%: 1 of 200 items have no outcome {reason}; "
        "compared over the 198 that the dense model has as well",
        "wikitext2 of tiny, gptq W4A16: 12 of 200 items have no outcome (12 log_likelihood_not_finite); "
        "withheld from scores and comparisons",
    ]


def test_items_of_another_text_are_never_divided(maker):
    maker.add(DENSE, "piqa", coin_flips(0.6, 150, 1))
    maker.add(WANDA, "piqa", coin_flips(0.6, 150, 2), rows="another row")
    score = score_run(maker.evidence(), Mode.PAPER).score(WANDA, Track.PERFORMANCE)
    assert score.value is None
    assert "not of the same items as the dense value" in score.reason
