"""What repeated runs tell: stability, the median's interval, and what differs by chance."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backends.repeats import median_interval, noise_floor, still_warming_up, token_latency

SAMPLES = st.lists(st.floats(min_value=1, max_value=1000), min_size=4, max_size=10)


@pytest.mark.parametrize(
    ("seconds", "warming"),
    [
        ([], True),
        ([9.0], True),
        ([9.0, 5.0], True),
        ([9.0, 5.0, 4.9], False),
        ([9.0, 9.5], False),
        ([5.0, 9.0], False),
        ([5.0, 9.0, 8.0], False),
    ],
)
def test_a_run_is_warm_when_it_is_hardly_faster_than_the_fastest_before(seconds: list[float], warming: bool) -> None:
    assert still_warming_up(seconds) is warming


@pytest.mark.parametrize(
    ("count", "low", "high", "coverage"),
    [(2, 0, 1, 0.5), (5, 0, 4, 0.9375), (6, 0, 5, 0.96875), (9, 1, 7, 0.9609375), (20, 5, 14, 0.958610534667)],
)
def test_the_interval_is_the_narrowest_pair_that_covers_the_median(
    count: int, low: int, high: int, coverage: float
) -> None:
    samples = [float(number + 1) for number in range(count)]
    random.Random(1).shuffle(samples)
    interval = median_interval(samples)
    assert interval is not None
    assert (interval.low, interval.high) == (low + 1, high + 1)
    assert interval.coverage == pytest.approx(coverage)


def test_a_single_run_has_no_interval() -> None:
    assert median_interval([5.0]) is None


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    generator = random.Random(3)
    covered, trials = 0, 2000
    for _ in range(trials):
        interval = median_interval([generator.lognormvariate(0, 1) for _ in range(9)])
        assert interval is not None
        covered += interval.low <= 1 <= interval.high
    assert covered / trials == pytest.approx(0.961, abs=0.015)


def test_equal_runs_have_no_noise_and_fewer_than_four_have_no_floor() -> None:
    assert noise_floor([7.0] * 5) == 0
    assert noise_floor([7.0] * 20) == 0
    assert noise_floor([7.0, 8.0, 9.0]) is None


def test_halves_that_differ_throughout_set_the_floor() -> None:
    floor = noise_floor([100.0, 110.0] * 3)
    assert floor == pytest.approx(0.1)


def test_one_slow_run_among_many_is_no_floor_of_its_size() -> None:
    floor = noise_floor([100.0, 100.0, 100.0, 50.0, 100.0, 100.0, 100.0, 100.0])
    assert floor == 0


@given(samples=SAMPLES, scale=st.floats(min_value=0.1, max_value=10))
def test_the_floor_has_no_unit_and_is_less_than_the_whole_spread(samples: list[float], scale: float) -> None:
    floor = noise_floor(samples)
    assert floor is not None
    assert 0 <= floor <= max(samples) / min(samples) - 1 + 1e-9
    assert noise_floor([scale * one for one in samples]) == pytest.approx(floor, abs=1e-9)


def test_more_runs_of_the_same_noise_lower_the_floor() -> None:
    generator = random.Random(0)

    def typical(count: int) -> float:
        floors = [noise_floor([generator.gauss(100, 5) for _ in range(count)]) for _ in range(20)]
        return statistics.median(floor for floor in floors if floor is not None)

    assert typical(40) < 0.6 * typical(6)


@pytest.mark.parametrize(
    ("steps", "p50", "p90", "p99"),
    [([3.0, 1.0, 2.0], 2, 3, 3), ([4.0, 1.0, 3.0, 2.0], 2, 4, 4), ([float(n + 1) for n in range(11)], 6, 10, 11)],
)
def test_a_percentile_is_the_least_step_that_so_many_do_not_exceed(
    steps: list[float], p50: float, p90: float, p99: float
) -> None:
    latency = token_latency(steps)
    assert (latency.p50_seconds, latency.p90_seconds, latency.p99_seconds) == (p50, p90, p99)


def test_latencies_are_steps_that_occurred() -> None:
    latency = token_latency([float(number) for number in range(100, 0, -1)])
    assert (latency.p50_seconds, latency.p90_seconds, latency.p99_seconds, latency.steps) == (50, 90, 99, 100)
    assert token_latency([0.5]).p99_seconds == 0.5
