"""The BCa interval of a resampled figure, and the p-value that belongs to it.

BCa: bias-corrected and accelerated (Efron 1987; DiCiccio and Efron 1996, section 2). Noise in the items makes squared
ratios too large on average, and a plain percentile interval doubles that bias, while an overall metric averages its
spread away; the correction takes it out. The acceleration comes from the influence function instead of a jackknife.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal

import numpy as np

from orchestrator.evidence.estimate import Estimate
from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.value import Interval

CONFIDENCE_PERCENT: Literal[95] = 95
_NORMAL = NormalDist()
_SAME = 1e-12
"""Relative distance below which a resampled value is the figure itself, up to rounding."""


def interval_of(estimate: Estimate) -> Interval:
    """Both ends are resampled values; the interval is widened where it would leave out the figure itself.

    Raises:
        NoInterval: too many resamples have no finite value.
    """
    if not math.isfinite(estimate.value) or np.isnan(estimate.draws.max()):
        raise NoInterval("too few items: not every resample has a value")
    correction = _Correction(estimate)
    last = len(estimate.draws) - 1
    tail = (1 - CONFIDENCE_PERCENT / 100) / 2
    places = (math.floor(correction.share(tail) * last), math.ceil(correction.share(1 - tail) * last))
    low, high = (float(np.partition(estimate.draws, place)[place]) for place in places)  # half the time of both at once
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NoInterval(f"too few items: {np.isinf(estimate.draws).mean():.1%} of the resamples have no finite value")
    return Interval(low=min(low, estimate.value), high=max(high, estimate.value))


def value_interval(estimate: Estimate) -> Interval:
    """As `interval_of`, for a value by itself.

    Raises:
        NoInterval: also where all items came out alike, since resampling cannot tell how sure that is.
    """
    if estimate.draws.min() == estimate.draws.max():
        raise NoInterval("all items came out alike, so resampling shows no spread")
    return interval_of(estimate)


def if_any(of: Callable[[], Interval]) -> tuple[Interval | None, str | None]:
    """The interval, or the reason why there is none."""
    try:
        return of(), None
    except NoInterval as reason:
        return None, str(reason)


def p_value(difference: Estimate) -> float:
    """Two-sided, of the hypothesis that the difference is 0: the level at which the interval just reaches 0.

    Never below 2 / (resamples + 1), the least that so many resamples can show.
    """
    draws = difference.draws
    correction = _Correction(difference)
    below = correction.level(float(np.mean(draws <= 0)))
    above = 1 - correction.level(float(np.mean(draws < 0)))
    least = 1 / (len(draws) + 1)
    return min(1.0, 2 * max(least, min(below, above)))


class _Correction:
    """Between shares of the sorted resamples and levels of confidence."""

    def __init__(self, estimate: Estimate) -> None:
        self._least = 0.5 / len(estimate.draws)
        self._bias = self._quantile(_share_below(estimate))
        self._acceleration = _acceleration(estimate)

    def share(self, level: float) -> float:
        """Which share of the resamples lies below the one-sided limit of `level`."""
        shifted = self._bias + _NORMAL.inv_cdf(level)
        return _NORMAL.cdf(self._bias + shifted / (1 - self._acceleration * shifted))

    def level(self, share: float) -> float:
        """The inverse of `share`."""
        shifted = self._quantile(share) - self._bias
        stretch = 1 + self._acceleration * shifted
        if stretch <= 0:
            return 0.0 if shifted < 0 else 1.0
        return _NORMAL.cdf(shifted / stretch - self._bias)

    def _quantile(self, share: float) -> float:
        return _NORMAL.inv_cdf(min(max(share, self._least), 1 - self._least))


def _share_below(estimate: Estimate) -> float:
    """Resamples below the figure; those equal to it count half, since figures of few items are often hit exactly."""
    distance = _SAME * abs(estimate.value)
    count = len(estimate.draws)
    below = np.count_nonzero(estimate.draws < estimate.value - distance) / count
    above = np.count_nonzero(estimate.draws > estimate.value + distance) / count
    return 0.5 * (1 + below - above)


def _acceleration(estimate: Estimate) -> float:
    """A sixth of the skewness of the influence; at most 1/6, so that no level divides by 0."""
    squares = math.fsum(float(np.sum(one**2)) for one in estimate.influence.values())
    cubes = math.fsum(float(np.sum(one**3)) for one in estimate.influence.values())
    return cubes / (6 * squares**1.5) if squares > 0 and math.isfinite(squares**1.5) else 0.0
