"""The order under a preference, and which of it chance alone may have made.

    utility = sum over quantities of weight · log2(how many times better than dense)

A doubling of speed and a halving of memory count the same at the same weight. A loss of 2 % is 0.029 of a doubling: the
limit on it, not its weight, is what keeps accuracy. Time has no dense value to be held against: it counts as
log2(1 + hours), so that the first hour of compressing costs as much as a halving of speed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.decide.candidates import Amount, Candidate
from orchestrator.decide.limits import DOUBT
from orchestrator.figures.metrics import Floats
from orchestrator.manifest.deciding import Quantity
from orchestrator.score.comparison import holm

_HOUR = 3600.0
_LEAST = 1e-12
"""Of a share that is kept: what loses all is worse than any other, and still a number."""


@dataclass(frozen=True)
class Utility:
    """In doublings over dense, as `value` and `draws` [resamples]. One that is not `sure` rests on a cost that was
    measured once, and is told apart from nothing."""

    value: float
    draws: Floats
    sure: bool = True


def references(candidates: Sequence[Candidate]) -> dict[Quantity, Amount]:
    """Dense's amounts, through the first backend that has each; where it has none, those of the first that has one.

    What the reference is moves all utilities alike.
    """
    found: dict[Quantity, Amount] = {}
    for candidate in sorted(candidates, key=lambda one: not one.variant.is_dense):
        found = {**candidate.amounts, **found}
    return found


def utility(
    candidate: Candidate, reference_of: Mapping[Quantity, Amount], weights: Mapping[Quantity, float], resamples: int
) -> Utility | None:
    """None where a quantity that has a weight was not measured of the candidate, or none has a weight."""
    if not weights:
        return None
    value, draws, sure = 0.0, np.zeros(resamples), True
    for quantity, weight in weights.items():
        own = candidate.amounts.get(quantity)
        if own is None:
            return None
        reference = reference_of[quantity]
        sure = sure and own.draws is not None
        value += weight * float(_doublings(quantity, np.array(own.value), np.array(reference.value)))
        draws = draws + weight * _doublings(quantity, own.sampled(resamples), reference.sampled(resamples))
    return Utility(value, draws, sure)


def _doublings(quantity: Quantity, own: Floats, dense: Floats) -> Floats:
    if quantity is Quantity.LOSS:
        return np.asarray(np.log2(np.maximum(1 - own, _LEAST)))
    if quantity is Quantity.TIME:
        return np.asarray(-np.log2(1 + own / _HOUR))
    ratio = np.log2(own / dense)
    return np.asarray(ratio if quantity.higher_is_better else -ratio)


def best_probabilities(utilities: Sequence[Utility]) -> Sequence[float | None]:
    """The share of the draws in which each is the best; several that are share it. None for all where one is not sure,
    since that may be better than all others."""
    if not all(one.sure for one in utilities):
        return [None] * len(utilities)
    if not utilities:
        return []
    drawn = np.stack([one.draws for one in utilities])
    first = drawn == drawn.max(axis=0)
    return [float(share) for share in (first / first.sum(axis=0)).mean(axis=1)]


def groups(utilities: Sequence[Utility]) -> list[int]:
    """A number for each, from 1: those that cannot be told apart from the best, then from the best of the rest, and on.

    Two are told apart where at most 5 % of the draws of their difference have the other sign, corrected by Holm's
    step-down for all that the best is compared with.
    """
    found = [0] * len(utilities)
    left = sorted(range(len(utilities)), key=lambda index: -utilities[index].value)
    number = 0
    while left:
        number += 1
        worse = certainly_worse(utilities[left[0]], {index: utilities[index] for index in left[1:]})
        alike = [index for index in left if index not in worse]
        for index in alike:
            found[index] = number
        left = [index for index in left if index in worse]
    return found


def certainly_worse(best: Utility, others: Mapping[int, Utility]) -> set[int]:
    """Those of the others that are worse beyond chance."""
    doubts = {
        index: float(np.mean(best.draws <= one.draws)) if best.sure and one.sure else 1.0
        for index, one in others.items()
    }
    return {index for index, p_value in holm(doubts).items() if p_value <= DOUBT}


def in_use(candidates: Sequence[Candidate], weights: Mapping[Quantity, float]) -> dict[Quantity, float]:
    """The weights of what was measured of any compressed candidate."""
    return {
        quantity: weight
        for quantity, weight in weights.items()
        if weight > 0 and any(quantity in one.amounts for one in candidates if not one.variant.is_dense)
    }
