"""A run's scores with intervals: what they hold, and what costs an interval."""

import pytest

from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import DENSE, Values, Variant
from orchestrator.score.scores import RunScores, score_run
from orchestrator.tracks import Mode, Track
from tests.support.measured_runs import GPTQ, WANDA, RunMaker, coin_flips

QUICK = Resampling(resamples=500)


def scored(maker, mode=Mode.PAPER, resampling=QUICK):
    return score_run(maker.evidence(resampling), mode)


def figures(document, variant, track):
    """Each value that counts in a score, with its ratio, by the value's name."""
    values = Values(document.values)
    ratios = document.score(variant, track).ratios
    return {one.place.name: (values.get(one.place, variant), one) for one in ratios}


def worse(flips, seed, loses=0.3):
    return [flip * keeps for flip, keeps in zip(flips, coin_flips(1 - loses, len(flips), seed), strict=True)]


@pytest.fixture
def maker(tmp_path):
    """Dense, Wanda, which loses a third of the right answers, and GPTQ, which loses almost none."""
    made = RunMaker(tmp_path)
    for number, task in enumerate(("arc_easy", "piqa")):
        dense = coin_flips(0.7, 150, number)
        made.add(DENSE, task, dense)
        made.add(WANDA, task, worse(dense, 10 + number))
        made.add(GPTQ, task, worse(dense, 20 + number, loses=0.02))
    for variant, factor in ((DENSE, 1.0), (WANDA, 1.2), (GPTQ, 1.01)):
        losses = [factor * (1.5 + 0.5 * flip) for flip in coin_flips(0.5, 40, 5)]
        made.add(variant, "wikitext2", losses)
        made.observe(
            Track.INFERENCE_CONSUMPTION,
            "size",
            "disk_bytes",
            variant,
            100 / factor,
            higher_is_better=False,
            unit="bytes",
        )
    return made


def test_every_printed_score_made_of_items_has_an_interval_around_it(maker):
    document = scored(maker)
    printed = {(one.variant, one.track): one.value for one in score_run(maker.evidence()).scores}
    assert set(printed) == {(variant, track) for variant in (DENSE, WANDA, GPTQ) for track in Track}
    for score in document.scores:
        assert score.value == printed[score.variant, score.track]
        if score.track in (Track.PERFORMANCE, Track.GENERALIZATION):
            assert score.interval is not None
            assert score.interval.holds(score.value)
            assert (score.interval.low < score.interval.high) == (not score.variant.is_dense)


def test_every_value_and_ratio_has_its_own(maker):
    wanda = figures(scored(maker), WANDA, Track.PERFORMANCE)
    assert {name: value.items for name, (value, _) in wanda.items()} == {"arc_easy": 150, "piqa": 150, "wikitext2": 40}
    for value, ratio in wanda.values():
        assert value.interval.low < value.value < value.interval.high
        assert ratio.interval.low < ratio.ratio < ratio.interval.high
        assert value.interval_reason is None
        assert ratio.interval_reason is None


def test_what_dense_gets_wrong_too_does_not_widen_a_ratio(maker):
    value, ratio = figures(scored(maker), GPTQ, Track.PERFORMANCE)["arc_easy"]
    own = (value.interval.high - value.interval.low) / value.value
    paired = (ratio.interval.high - ratio.interval.low) / ratio.ratio
    assert paired < own / 2


def test_a_track_without_items_says_so(maker):
    size = scored(maker).score(WANDA, Track.INFERENCE_CONSUMPTION)
    assert size.value is not None
    assert size.interval is None
    assert size.interval_reason == "not made of items, so there is nothing to resample"


def test_a_missing_score_has_its_reason_once(maker):
    trust = scored(maker).score(WANDA, Track.TRUSTWORTHINESS)
    assert (trust.value, trust.interval, trust.interval_reason) == (None, None, None)
    assert trust.reason == "not measured"
    assert [value.place.name for value in trust.coverage.missing] == ["advglue", "truthfulqa"]


def test_outcomes_of_other_items_are_not_paired(maker):
    other = coin_flips(0.6, 150, 9)
    maker.facts = [facts for facts in maker.facts if (facts["variant"], facts["place"].name) != (WANDA, "piqa")]
    maker.add(WANDA, "piqa", other, rows="another row")
    missing = scored(maker).score(WANDA, Track.PERFORMANCE).coverage.missing
    (piqa,) = [one for one in missing if one.place.name == "piqa"]
    assert piqa.reason == "not of the same items as the dense value"


def test_a_mean_of_group_means_is_resampled_within_its_groups(tmp_path):
    maker = RunMaker(tmp_path)
    groups = ["sst2"] * 20 + ["rte"] * 100
    dense = coin_flips(0.9, 20, 1) + coin_flips(0.5, 100, 2)
    maker.add(DENSE, "advglue", dense, groups=groups)
    maker.add(WANDA, "advglue", worse(dense, 3), groups=groups)
    document = scored(maker)
    wanda = document.score(WANDA, Track.TRUSTWORTHINESS)
    assert wanda.interval.holds(wanda.value)
    assert figures(document, WANDA, Track.TRUSTWORTHINESS)["advglue"][0].items == 120


def test_a_variant_that_almost_never_differs_is_like_the_best(maker):
    twin = Variant(method="twin", setting="W4A16")
    for task in ("arc_easy", "piqa"):
        dense = coin_flips(0.7, 150, ("arc_easy", "piqa").index(task))
        maker.add(twin, task, worse(dense, 30, loses=0.03))
    maker.add(twin, "wikitext2", [1.015 * (1.5 + 0.5 * flip) for flip in coin_flips(0.5, 40, 5)])
    document = scored(maker)
    marks = {variant: document.like_best(variant, Track.PERFORMANCE) for variant in (DENSE, WANDA, GPTQ, twin)}
    best = max((GPTQ, twin), key=lambda variant: document.score(variant, Track.PERFORMANCE).value)
    other = twin if best == GPTQ else GPTQ
    assert marks == {DENSE: None, WANDA: False, best: None, other: True}


def test_ranks_over_the_resamples_add_up(maker):
    ranks = {entry.track: entry for entry in scored(maker).ranks}
    assert set(ranks) == {Track.PERFORMANCE, Track.GENERALIZATION}
    for entry in ranks.values():
        assert [one.variant for one in entry.variants] == [GPTQ, WANDA]
        assert [one.rank for one in entry.variants] == [1, 2]
        assert sum(one.first for one in entry.variants) == pytest.approx(1)
        assert entry.variants[0].keeps_rank > 0.99
        assert entry.kendall_tau > 0.98


def test_an_undecided_order_is_unstable(tmp_path):
    maker = RunMaker(tmp_path)
    maker.add(DENSE, "piqa", coin_flips(0.9, 60, 0))
    maker.add(WANDA, "piqa", coin_flips(0.5, 60, 1))
    maker.add(GPTQ, "piqa", coin_flips(0.5, 60, 2))
    (ranks,) = scored(maker, resampling=Resampling(resamples=2000)).ranks
    assert -0.5 < ranks.kendall_tau < 0.95
    assert 0.02 < ranks.variants[1].first < 0.6


def test_intervals_and_ranks_are_those_of_the_values_that_all_have(maker):
    """Wanda lacks PIQA, which GPTQ gets almost all wrong: its own score has that, the column does not."""
    maker.facts = [facts for facts in maker.facts if (facts["variant"], facts["place"].name) != (WANDA, "piqa")]
    maker.facts = [facts for facts in maker.facts if (facts["variant"], facts["place"].name) != (GPTQ, "piqa")]
    alike = scored(maker)
    maker.add(GPTQ, "piqa", [float(index == 0) for index in range(150)])
    document = scored(maker)
    gptq, wanda = (document.score(variant, Track.PERFORMANCE) for variant in (GPTQ, WANDA))
    assert wanda.own is None
    assert gptq.own.value < gptq.value
    assert gptq.own.interval.holds(gptq.own.value) and gptq.own.interval.high < gptq.interval.low
    for score in (gptq, wanda):
        assert score.interval == alike.score(score.variant, Track.PERFORMANCE).interval
    assert document.ranks == alike.ranks
    assert document.like_best(WANDA, Track.PERFORMANCE) is False


def test_models_that_share_their_items_vary_together(tmp_path):
    """Two copies of a model tell no more than one does."""
    widths = {}
    for models in (("a",), ("a", "b")):
        maker = RunMaker(tmp_path, run="-".join(models), models=models)
        losses = [1.5 + flip for flip in coin_flips(0.5, 40, 5)]
        for model in models:
            maker.add(DENSE, "wikitext2", losses, model=model)
            maker.add(WANDA, "wikitext2", [loss**1.2 for loss in losses], model=model)
        interval = scored(maker).score(WANDA, Track.GENERALIZATION).interval
        widths[len(models)] = interval.high - interval.low
    assert widths[2] == pytest.approx(widths[1])


def test_strict_mode_weighs_families_in_the_interval_too(tmp_path):
    maker = RunMaker(tmp_path, models=("a", "b", "c"))
    for model, family, factor in (("a", "x", 1.0), ("b", "x", 1.0), ("c", "y", 1.3)):
        maker.families[model] = family
        losses = [1.5 + flip for flip in coin_flips(0.5, 40, ord(model))]
        maker.add(DENSE, "wikitext2", losses, model=model)
        maker.add(WANDA, "wikitext2", [loss * factor for loss in losses], model=model)
    paper, strict = (scored(maker, mode).score(WANDA, Track.GENERALIZATION) for mode in Mode)
    assert strict.value < paper.value
    assert strict.interval.holds(strict.value)
    assert strict.interval.high - strict.interval.low > paper.interval.high - paper.interval.low


def test_the_order_of_variants_and_values_changes_no_interval(maker):
    straight = scored(maker)
    maker.facts.reverse()
    reversed_ = scored(maker)
    assert len(straight.scores) == 3 * len(Track)
    for score in straight.scores:
        assert reversed_.score(score.variant, score.track).interval == score.interval


def test_values_of_different_protocols_side_by_side_are_warned_of(maker):
    maker.change(GPTQ, "piqa", protocol="p first 50")
    document = scored(maker)
    assert document.warnings == (
        "piqa of tiny was measured by different protocols, which are not compared: "
        "dense, wanda 50% by 'p'; gptq W4A16 by 'p first 50'",
    )
    missing = {value.place.name: value.reason for value in document.score(GPTQ, Track.PERFORMANCE).coverage.missing}
    assert missing["piqa"] == "measured by protocol 'p first 50', but the dense model by 'p'"


def test_the_document_survives_json(maker):
    document = scored(maker)
    assert document.scores
    assert RunScores.model_validate_json(document.model_dump_json()) == document
    assert document.schema_version == 3
