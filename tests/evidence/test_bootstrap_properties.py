"""What holds for the resampled figures of any outcomes."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.evidence.estimate import difference, ratio, root_mean_square
from orchestrator.evidence.interval import interval_of, p_value, value_interval
from orchestrator.evidence.items import Items, NoInterval
from orchestrator.evidence.resampling import Column, Resampling, columns_of, resample, ways_to_average

PATIENT = settings(max_examples=40)
"""An example takes milliseconds, but a busy machine may take its time."""
QUICK = Resampling(resamples=400, seed=3)
FLIPS = st.lists(st.sampled_from([0.0, 1.0]), min_size=10, max_size=40)


def items_of(outcomes, *, name="items", groups=None, exponential=False, weights=None):
    values = np.array([math.nan if value is None else value for value in outcomes], dtype=np.float64)
    ones = np.ones_like(values) if weights is None else np.array(weights, dtype=np.float64)
    return Items(name, groups or (len(values),), values, ones, exponential)


def column_of(outcomes, **how):
    items = items_of(outcomes, **how)
    mean = float(np.nanmean(items.values))
    value = math.exp(mean) if items.exponential else mean
    return Column(value, items, (len(items.values),))


def estimate_of(outcomes, resampling=QUICK, **how):
    return resample([column_of(outcomes, **how)], resampling)[0]


def width(estimate):
    interval = interval_of(estimate)
    return interval.high - interval.low


@PATIENT
@given(outcomes=FLIPS.filter(any))
def test_dense_against_dense_is_one_and_never_varies(outcomes):
    dense, twin = resample([column_of(outcomes), column_of(outcomes)], QUICK)
    for other in (dense, twin):
        found = interval_of(ratio(other, dense))
        assert (found.low, found.high) == (1.0, 1.0)


@PATIENT
@given(
    losses=st.lists(st.floats(0.5, 8), min_size=16, max_size=16),
    others=st.lists(st.lists(st.floats(0.5, 8), min_size=16, max_size=16), max_size=3),
)
def test_a_copy_of_a_perplexity_has_its_very_draws_whatever_stands_between(losses, others):
    copies = [column_of(losses, exponential=True) for _ in range(2)]
    between = (column_of(other, exponential=True) for other in others)
    found = resample([copies[0], *between, copies[1]], QUICK)
    assert np.array_equal(found[0].draws, found[-1].draws)


@PATIENT
@given(data=st.data(), outcomes=st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=12, max_size=12), min_size=2))
def test_the_order_and_the_company_of_the_variants_change_nothing(data, outcomes):
    columns = [column_of(flips) for flips in outcomes]
    straight = resample(columns, QUICK)
    order = data.draw(st.permutations(range(len(columns))))
    shuffled = resample([columns[place] for place in order], QUICK)
    for place, found in zip(order, shuffled, strict=True):
        assert np.array_equal(found.draws, straight[place].draws)
    assert np.array_equal(resample(columns[:1], QUICK)[0].draws, straight[0].draws)


@PATIENT
@given(pairs=st.lists(st.tuples(FLIPS.filter(any), st.randoms(use_true_random=False)), min_size=1, max_size=5))
def test_an_interval_holds_its_figure(pairs):
    ratios = []
    for number, (flips, random) in enumerate(pairs):
        worse = [value * random.choice([0.0, 1.0]) for value in flips]
        dense, own = resample([column_of(flips, name=str(number)), column_of(worse, name=str(number))], QUICK)
        ratios.append(ratio(own, dense))
    for estimate in (*ratios, root_mean_square([ratios])):
        try:
            assert interval_of(estimate).holds(estimate.value)
        except NoInterval as reason:
            assert "too few items" in str(reason)


@PATIENT
@given(losses=st.lists(st.floats(0.5, 4), min_size=10, max_size=30), shift=st.floats(-0.4, 3))
def test_a_perplexity_times_a_factor_has_an_interval_times_that_factor(losses, shift):
    plain = interval_of(estimate_of(losses, exponential=True))
    scaled = interval_of(estimate_of([loss + shift for loss in losses], exponential=True))
    factor = math.exp(shift)
    assert (scaled.low, scaled.high) == pytest.approx((plain.low * factor, plain.high * factor), rel=1e-9)


@PATIENT
@given(flips=FLIPS.filter(lambda flips: 0.2 < np.mean(flips) < 0.8))
def test_four_times_the_items_halve_the_interval(flips):
    few, many = estimate_of(flips * 8, Resampling(resamples=2000)), estimate_of(flips * 32, Resampling(resamples=2000))
    assert 0.35 < width(many) / width(few) < 0.65


@PATIENT
@given(
    flips=st.lists(st.sampled_from([0.0, 1.0]), min_size=20, max_size=40),
    excluded=st.sets(st.integers(0, 40), max_size=5),
)
def test_an_excluded_item_has_no_say(flips, excluded):
    holes = [None if place in excluded else value for place, value in enumerate(flips)]
    kept = [value for value in holes if value is not None]
    estimate = estimate_of(holes)
    assert estimate.value == np.mean(kept)
    assert estimate.draws.mean() == pytest.approx(np.mean(kept), abs=0.1)
    assert estimate.influence["items/1"][[place for place, value in enumerate(holes) if value is None]].sum() == 0


def test_the_spread_is_that_of_a_mean():
    flips = [1.0] * 60 + [0.0] * 140
    draws = estimate_of(flips, Resampling(resamples=20_000)).draws
    assert draws.var() == pytest.approx(0.3 * 0.7 / 200, rel=0.05)
    assert draws.mean() == pytest.approx(0.3, abs=0.001)


def test_the_interval_is_that_of_scipys_bca():
    losses = np.random.default_rng(5).gamma(2.0, 1.0, size=60)
    ours = interval_of(estimate_of(losses.tolist(), Resampling(resamples=20_000)))
    theirs = scipy.stats.bootstrap(
        (losses,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.015)


def test_words_weigh_the_same_whatever_page_they_are_on():
    means, words = [2.0, 3.0] * 6, [100.0, 300.0] * 6
    items = items_of(means, exponential=True, weights=words)
    value = math.exp(np.average(means, weights=words))
    assert ways_to_average(value, items) == ((12,),)
    found = resample([Column(value, items, (12,))], Resampling(resamples=4000))[0]
    assert np.log(found.draws).mean() == pytest.approx(2.75, abs=0.02)


def test_groups_keep_their_sizes_and_weigh_the_same():
    outcomes = [1.0] * 10 + [0.0, 1.0] * 50
    items = items_of(outcomes, groups=(10, 100))
    by_group = columns_of({"value": (0.75, items)}, {})["value"]
    assert by_group.strata == (10, 100)
    draws = resample([by_group], Resampling(resamples=5000))[0].draws
    assert draws.min() > 0.5, "the group that is always right is always there"
    assert draws.var() == pytest.approx(0.25 * 0.25 / 100, rel=0.1)


def test_a_value_that_fits_both_ways_is_averaged_as_its_companions_are():
    even, uneven = items_of([1.0] * 55 + [0.0] * 55, groups=(10, 100)), items_of([1.0] * 110, groups=(10, 100))
    found = columns_of({"even": ((1 + 0.45) / 2, even), "both": (1.0, uneven)}, {})
    assert {column.strata for column in found.values()} == {(10, 100)}


@pytest.mark.parametrize(
    ("value", "outcomes", "reason"),
    [
        (0.5, [1.0, 0.0] * 4, "resampling 8 items shows too little spread"),
        (0.6, [1.0, 0.0] * 8, "the outcomes of the items give 0.5, not the value 0.6"),
    ],
)
def test_outcomes_that_cannot_carry_the_value_are_refused(value, outcomes, reason):
    with pytest.raises(NoInterval, match=reason):
        ways_to_average(value, items_of(outcomes))


def test_items_that_all_came_out_alike_give_no_interval_of_their_value():
    with pytest.raises(NoInterval, match="all items came out alike"):
        value_interval(estimate_of([1.0] * 20))


def test_a_dense_value_that_is_often_zero_gives_no_ratio():
    dense, own = resample([column_of([1.0] + [0.0] * 19), column_of([0.0] * 10 + [1.0] * 10)], QUICK)
    with pytest.raises(NoInterval, match="of the resamples have no finite value"):
        interval_of(ratio(own, dense))


def test_nine_of_ten_or_more_intervals_hold_the_truth():
    """300 runs of three tasks; dense and compressed err together, as they do."""
    generator = np.random.default_rng(11)
    held = dict.fromkeys(("accuracy", "ratio", "overall"), 0)
    truth = {"accuracy": 0.6, "ratio": 0.6 / 0.7, "overall": 100 * 0.6 / 0.7}
    for run in range(300):
        columns = []
        for task in range(3):
            hardness = generator.random(120)
            other = np.where(generator.random(120) < 0.8, hardness, generator.random(120))
            columns += [column_of((hardness < 0.7).astype(float), name=f"{run}/{task}")]
            columns += [column_of((other < 0.6).astype(float), name=f"{run}/{task}")]
        found = resample(columns, Resampling(resamples=500))
        ratios = [ratio(own, dense) for dense, own in zip(found[::2], found[1::2], strict=True)]
        estimates = {"accuracy": found[1], "ratio": ratios[0], "overall": root_mean_square([ratios])}
        for name, estimate in estimates.items():
            held[name] += interval_of(estimate).holds(truth[name])
    shares = {name: count / 300 for name, count in held.items()}
    assert all(0.90 <= share <= 0.99 for share in shares.values()), shares


def test_many_noisy_data_sets_do_not_push_the_interval_off_the_truth():
    """The mean of squared ratios is biased upwards, and a plain percentile interval doubles that."""
    generator = np.random.default_rng(2)
    held = {"bca": 0, "percentile": 0}
    for run in range(40):
        columns = []
        for task in range(60):
            flips = (generator.random((2, 60)) < [[0.6], [0.5]]).astype(float)
            columns += [column_of(variant, name=f"{run}/{task}") for variant in flips]
        found = resample(columns, Resampling(resamples=300))
        overall = root_mean_square([[ratio(own, dense) for dense, own in zip(found[::2], found[1::2], strict=True)]])
        truth = 100 * 0.5 / 0.6
        held["bca"] += interval_of(overall).holds(truth)
        low, high = np.quantile(overall.draws, (0.025, 0.975))
        held["percentile"] += low <= truth <= high
    assert held["bca"] > held["percentile"] + 8, held


def test_the_p_value_and_the_interval_say_the_same():
    generator = np.random.default_rng(4)
    told_apart = 0
    for run in range(60):
        shares = generator.uniform(0.3, 0.7, size=2)
        columns = [column_of((generator.random(80) < share).astype(float), name=str(run)) for share in shares]
        apart = difference(*resample(columns, Resampling(resamples=2000)))
        p, interval = p_value(apart), interval_of(apart)
        assert 0 < p <= 1
        if not 0.045 < p < 0.055:
            assert (p < 0.05) == (not interval.holds(0)), (p, interval)
            told_apart += p < 0.05
    assert 5 < told_apart < 55


def test_variants_with_equal_outcomes_do_not_differ():
    flips = [1.0, 0.0] * 20
    apart = difference(*resample([column_of(flips), column_of(flips)], QUICK))
    assert p_value(apart) == 1
    assert (interval_of(apart).low, interval_of(apart).high) == (0, 0)


def test_the_seed_decides_the_draws():
    flips = [1.0, 0.0, 0.0] * 10
    first, again, other = (estimate_of(flips, Resampling(resamples=200, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.draws, again.draws)
    assert not np.array_equal(first.draws, other.draws)


def test_sets_of_items_of_one_size_are_drawn_apart():
    """Drawn alike, the errors of two tasks would add up instead of averaging out."""
    flips = [0.0, 1.0] * 50
    one, other = (estimate_of(flips, Resampling(resamples=2000), name=name).draws for name in ("piqa", "boolq"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
