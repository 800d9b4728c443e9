"""Intervals of means and quantiles over tokens that come in segments, and of counts."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.evidence.clusters import mean_interval, quantile_interval, student_quantile
from orchestrator.evidence.counts import share_interval, sign_test
from orchestrator.evidence.items import NoInterval


@pytest.mark.parametrize(
    ("freedom", "wanted"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (10, 2.22814), (138, 1.97730), (5000, 1.95996)]
)
def test_students_quantile_is_that_of_the_tables(freedom: int, wanted: float) -> None:
    assert student_quantile(freedom) == pytest.approx(wanted, rel=1e-4)


def drawn(generator: np.random.Generator, segments: int, tokens: int = 200) -> list[np.ndarray]:
    """Divergences as real ones are: skewed, and larger or smaller in a whole segment."""
    levels = np.exp(0.4 * generator.standard_normal(segments))
    return [level * np.exp(1.5 * generator.standard_normal(tokens)) for level in levels]


@pytest.mark.parametrize("segments", [5, 40])
def test_the_true_mean_and_quantiles_are_within_about_as_often_as_is_said(segments: int) -> None:
    truth = np.concatenate(drawn(np.random.default_rng(0), 20_000, 50))
    mean, p90 = float(truth.mean()), float(np.quantile(truth, 0.9))
    generator, repeats = np.random.default_rng(1), 300
    held = np.zeros(2)
    for _ in range(repeats):
        found = drawn(generator, segments)
        sums, tokens = np.array([one.sum() for one in found]), np.array([float(len(one)) for one in found])
        try:
            held += [mean_interval(sums, tokens, positive=True).holds(mean), quantile_interval(found, 0.9).holds(p90)]
        except NoInterval:
            held += [mean_interval(sums, tokens, positive=True).holds(mean), True]
    assert (held / repeats > 0.89).all()
    assert (held / repeats < 0.995).any()


def test_a_mean_counts_every_token_the_same() -> None:
    found = mean_interval(np.array([10.0, 0.0, 4.0]), np.array([10.0, 10.0, 5.0]))
    assert (found.low + found.high) / 2 == pytest.approx(14 / 25)


def test_a_single_segment_has_no_interval_and_too_few_tokens_no_upper_end() -> None:
    one = [np.array([0.1, 0.2])]
    for interval in (lambda: mean_interval(np.array([1.0]), np.array([2.0])), lambda: quantile_interval(one, 0.5)):
        with pytest.raises(NoInterval, match="a single segment shows no spread"):
            interval()
    generator = np.random.default_rng(0)
    with pytest.raises(NoInterval, match="too few for an upper end"):
        quantile_interval([generator.random(50) ** level for level in (1, 4)], 0.99)


@given(st.lists(st.lists(st.floats(0, 10), min_size=1, max_size=20), min_size=2, max_size=8), st.floats(0.1, 0.9))
def test_an_interval_of_a_quantile_holds_it(segments: list[list[float]], share: float) -> None:
    arrays = [np.array(one) for one in segments]
    values = np.sort(np.concatenate(arrays))
    value = values[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    try:
        assert quantile_interval(arrays, share).holds(value)
    except NoInterval:
        return


@given(st.integers(0, 50), st.integers(1, 50))
def test_an_interval_of_a_share_holds_it_and_stays_a_share(count: int, more: int) -> None:
    found = share_interval(count, count + more)
    assert 0 <= found.low <= count / (count + more) <= found.high <= 1
    assert found.high > found.low
    expected = scipy.stats.binomtest(count, count + more).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_counts_that_are_alike_are_no_sign_of_anything() -> None:
    assert sign_test(5, 5) == 1.0
    assert sign_test(0, 0) == 1.0
    assert sign_test(0, 10) == pytest.approx(2 / 1024)
    assert sign_test(7, 20) == sign_test(20, 7) == pytest.approx(scipy.stats.binomtest(7, 27).pvalue)


def test_of_segments_of_one_length_the_interval_is_students_of_their_means() -> None:
    means = np.array([0.4, 1.3, 0.9, 2.2, 0.7])
    sums, tokens = 30 * means, np.full(5, 30.0)
    low, high = scipy.stats.t.interval(0.95, 4, loc=means.mean(), scale=scipy.stats.sem(means))
    found = mean_interval(sums, tokens)
    assert (found.low, found.high) == pytest.approx((low, high))
    positive, factor = mean_interval(sums, tokens, positive=True), math.exp((high - low) / 2 / means.mean())
    assert (positive.low, positive.high) == pytest.approx((means.mean() / factor, means.mean() * factor))
    nothing = mean_interval(0 * sums, tokens, positive=True)
    assert (nothing.low, nothing.high) == (0.0, 0.0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_interval_of_a_quantile_is_that_of_the_share_below_it_read_back(share: float) -> None:
    segments = [np.random.default_rng(seed).random(400) ** (1 + seed / 9) for seed in range(12)]
    values = np.sort(np.concatenate(segments))
    value = values[math.ceil(share * len(values)) - 1]
    half = scipy.stats.t.ppf(0.975, 11) * scipy.stats.sem([np.mean(one <= value) for one in segments])
    found = quantile_interval(segments, share)
    expected = [values[max(0, math.ceil(end * len(values)) - 1)] for end in (max(0.0, share - half), share + half)]
    assert (found.low, found.high) == pytest.approx(expected)
