"""Exact statements about counts: a share of items, and whether one of two outcomes is the more frequent."""

import math
from statistics import NormalDist

from orchestrator.evidence.value import Interval

_DEVIATIONS = NormalDist().inv_cdf(0.975)


def share_interval(count: int, total: int) -> Interval:
    """The 95 % interval of the share that `count` of `total` items stand for.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    share, weight = count / total, _DEVIATIONS**2 / total
    middle = (share + weight / 2) / (1 + weight)
    half = _DEVIATIONS * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    return Interval(low=min(share, max(0.0, middle - half)), high=max(share, min(1.0, middle + half)))


def sign_test(one: int, other: int) -> float:
    """Two-sided p-value of two counts that would be equally likely: McNemar's exact test.

    Twice the lesser tail of a binomial distribution with p = 1/2, in whole numbers: exact for any size.
    """
    total = one + other
    term = tail = 1
    for taken in range(min(one, other)):
        term = term * (total - taken) // (taken + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << total))
