"""A figure with its resampled values, and the arithmetic that keeps both: ratios, differences, root mean squares.

Beside the resampled values goes the figure's empirical influence function: to first order, how much one more copy of an
item would change it, divided by the number of items. Its skewness is the acceleration of the BCa interval.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.figures.metrics import Floats


@dataclass(frozen=True)
class Estimate:
    """`value` is the figure as printed, `draws` [resamples] its resampled values.

    `influence` holds, for each set of items that the figure depends on, one number an item [items].
    """

    value: float
    draws: Floats
    influence: Mapping[str, Floats]


def ratio(dividend: Estimate, divisor: Estimate) -> Estimate:
    """Where the resampled divisor is 0 there is no ratio: then 1 if both are 0, else infinite, as the worse bound."""
    value = dividend.value / divisor.value
    return Estimate(
        value=value,
        draws=_quotients(dividend.draws, divisor.draws),
        influence=_combine(((1 / divisor.value, dividend), (-value / divisor.value, divisor))),
    )


def _quotients(top: Floats, bottom: Floats) -> Floats:
    if bottom.min() > 0 and math.isfinite(top.max()):  # so that equal ones give 1
        return top / bottom
    quotients = np.full_like(top, math.inf)
    np.divide(top, bottom, out=quotients, where=bottom != 0)
    return np.where(top == bottom, 1.0, quotients)


def difference(left: Estimate, right: Estimate) -> Estimate:
    """left - right; two that are equally infinite differ by nothing."""
    with np.errstate(invalid="ignore"):
        draws = np.where(left.draws == right.draws, 0.0, left.draws - right.draws)
    return Estimate(left.value - right.value, draws, _combine(((1.0, left), (-1.0, right))))


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """The arithmetic mean, draw by draw."""
    return Estimate(
        value=math.fsum(one.value for one in estimates) / len(estimates),
        draws=np.mean([one.draws for one in estimates], axis=0),
        influence=_combine((1 / len(estimates), one) for one in estimates),
    )


def greatest(estimates: Sequence[Estimate]) -> Estimate:
    """The greatest in each draw, whichever that is; its influence is that of the greatest figure."""
    best = max(estimates, key=lambda one: one.value)
    return Estimate(best.value, np.max([one.draws for one in estimates], axis=0), best.influence)


def least(estimates: Sequence[Estimate]) -> Estimate:
    """The least in each draw, whichever that is; its influence is that of the least figure."""
    worst = min(estimates, key=lambda one: one.value)
    return Estimate(worst.value, np.min([one.draws for one in estimates], axis=0), worst.influence)


def root_mean_square(groups: Sequence[Sequence[Estimate]]) -> Estimate:
    """100 times the root of the mean over groups of the mean over a group's ratios of their squares, as an OM is."""
    squares = [_sum(one.draws**2 for one in group) / len(group) for group in groups]
    mean_square = math.fsum(math.fsum(one.value**2 for one in group) / len(group) for group in groups) / len(groups)
    root = math.sqrt(mean_square)
    terms = [(one, 1 / (len(groups) * len(group))) for group in groups for one in group]
    return Estimate(
        value=100 * root,
        draws=100 * np.sqrt(np.mean(squares, axis=0)),
        influence=_combine((100 * weight * one.value / root if root else 0.0, one) for one, weight in terms),
    )


def _sum(arrays: Iterator[Floats]) -> Floats:
    """One at a time, so that they need not all be there at once."""
    total = next(arrays)
    for one in arrays:
        total += one
    return total


def _combine(terms: Iterable[tuple[float, Estimate]]) -> dict[str, Floats]:
    """The weighted sum of influences, item by item: figures of the same items move together."""
    total: dict[str, Floats] = {}
    for weight, estimate in terms:
        for items, influence in estimate.influence.items():
            total[items] = total[items] + weight * influence if items in total else weight * influence
    return total
