"""How surely each candidate is one that no other beats: as good in every quantity, and better in one."""

from collections.abc import Sequence

import numpy as np

from orchestrator.decide.candidates import Candidate
from orchestrator.figures.metrics import Floats
from orchestrator.manifest.deciding import Quantity

_MOST_DRAWS = 2000
"""Every candidate is held against every other in each: enough for a share that is good to a percent."""


def pareto_probabilities(candidates: Sequence[Candidate], resamples: int) -> list[float]:
    """The share of the draws in which each is in the Pareto set.

    What has no amount of a quantity that others have beats nobody, and nobody beats it.
    """
    measured = [one for one in Quantity if any(one in candidate.amounts for candidate in candidates)]
    if not measured:
        return [1.0] * len(candidates)
    step = -(-resamples // _MOST_DRAWS)
    better = np.stack([_oriented(candidate, measured, resamples)[:, ::step] for candidate in candidates])
    found = []
    for own in better:
        as_good = (better >= own).all(axis=1)
        beaten = (as_good & (better > own).any(axis=1)).any(axis=0)
        found.append(float(1 - beaten.mean()))
    return found


def _oriented(candidate: Candidate, measured: Sequence[Quantity], resamples: int) -> Floats:
    """More is better [quantities, resamples]; NaN, which no comparison holds for, where there is no amount."""
    rows = []
    for quantity in measured:
        amount = candidate.amounts.get(quantity)
        drawn = np.full(resamples, np.nan) if amount is None else amount.sampled(resamples)
        rows.append(drawn if quantity.higher_is_better else -drawn)
    return np.stack(rows)
