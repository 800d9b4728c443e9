"""95 % intervals of means and quantiles over tokens, where whole segments of text are what was drawn.

Tokens of one segment are alike, so the spread is that between segments, with Student's t at one degree of freedom less
than there are. A mean over all tokens is a ratio of two sums over segments, whose spread is that of its linearisation
(Cochran, Sampling Techniques, 1977, section 6.4). A quantile's interval is that of the share of tokens up to it, read
back as quantiles (Woodruff, JASA 47, 1952).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.contract.divergence import rank
from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.value import Interval

Floats = NDArray[np.float64]

_CONFIDENCE = 0.95
_MANY = 1000
"""Degrees of freedom from which on the normal distribution's quantile is Student's, to three digits."""
_NORMAL = 1.959963984540054


def mean_interval(sums: Floats, tokens: Floats, *, positive: bool = False) -> Interval:
    """Of `sums` [segments] over `tokens` [segments]. With `positive` on the scale of logarithms, as of what is never
    negative and skewed.

    Raises:
        NoInterval: there are fewer than two segments.
    """
    value = float(sums.sum() / tokens.sum())
    half = _half(sums, tokens, value)
    if positive and value > 0:
        factor = math.exp(min(half / value, 700.0))
        return Interval(low=value / factor, high=value * factor)
    return Interval(low=value - half, high=value + half)


def quantile_interval(segments: Sequence[Floats], share: float) -> Interval:
    """Of the least value that `share` of all tokens do not exceed; `segments` holds the values of each.

    Raises:
        NoInterval: there are fewer than two segments, or too few tokens for the upper end to lie among them.
    """
    values = np.sort(np.concatenate(list(segments)))
    value = values[rank(share, len(values))]
    below = np.array([np.count_nonzero(segment <= value) for segment in segments], np.float64)
    tokens = np.array([len(segment) for segment in segments], np.float64)
    half = _half(below, tokens, float(below.sum() / tokens.sum()))
    if share + half >= 1:
        raise NoInterval(f"{len(values)} tokens in {len(segments)} segments are too few for an upper end")
    low, high = (float(values[rank(end, len(values))]) for end in (max(share - half, 0.0), share + half))
    return Interval(low=min(low, float(value)), high=max(high, float(value)))


def _half(sums: Floats, tokens: Floats, mean: float) -> float:
    count = len(sums)
    if count < 2:
        raise NoInterval("a single segment shows no spread")
    residuals = sums - mean * tokens
    error = math.sqrt(count / (count - 1) * float(np.square(residuals).sum())) / float(tokens.sum())
    return student_quantile(count - 1) * error


def student_quantile(freedom: int) -> float:
    """How many standard errors hold 95 % of Student's t with so many degrees of freedom, by bisection."""
    if freedom > _MANY:
        return _NORMAL
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < _CONFIDENCE else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) tan(angle)): Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2 == 1
    term = total = cosine if odd else 1.0
    for number in range(3 if odd else 2, freedom, 2):
        term *= (number - 1) / number * cosine**2
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if freedom > 1 else 0.0))
