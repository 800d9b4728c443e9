"""A figure over a slice is held against one over more of the items by those that both have, found by their names."""

import numpy as np
import pytest

from orchestrator.evidence.items import Items, NoInterval, of_a_slice
from orchestrator.evidence.resampling import Resampling, pair
from orchestrator.figures.metrics import Floats

RANDOM = np.random.default_rng(4)
NAMES = RANDOM.permutation(np.arange(100, 160, dtype=np.uint64))
"""In no order, and in the slice in another."""
CHOSEN = RANDOM.permutation(60)[:25]
WEIGHTS = RANDOM.uniform(1, 5, 60)


def items(values: Floats, places: np.ndarray) -> Items:
    """The outcomes of the items at these places among all."""
    of = " ".join(map(str, places))
    return Items(of, (len(places),), values, WEIGHTS[places], exponential=False, names=NAMES[places])


def outcomes(count: int, excluded: int) -> Floats:
    values = RANDOM.uniform(0, 1, count)
    values[RANDOM.permutation(count)[:excluded]] = np.nan
    return values


def mean(values: Floats, weights: Floats) -> float:
    scored = ~np.isnan(values)
    return float(np.average(values[scored], weights=weights[scored]))


@pytest.mark.parametrize("excluded", [0, 3])
def test_whichever_side_is_the_slice_both_figures_are_over_its_items_that_both_have(excluded: int) -> None:
    own, everything = outcomes(25, excluded), outcomes(60, 4 * excluded)
    smaller, larger = items(own, CHOSEN), items(everything, np.arange(60))
    common = ~np.isnan(own) & ~np.isnan(everything[CHOSEN])
    places = CHOSEN[common]
    wanted = mean(own[common], WEIGHTS[places]), mean(everything[places], WEIGHTS[places])
    figures = mean(own, WEIGHTS[CHOSEN]), mean(everything, WEIGHTS)
    straight = pair(figures[0], smaller, figures[1], larger)
    turned = pair(figures[1], larger, figures[0], smaller)
    assert straight is not None
    assert turned is not None
    assert (straight.value, straight.reference) == pytest.approx(wanted)
    assert (turned.value, turned.reference) == pytest.approx(wanted[::-1])
    assert straight.items == turned.items == len(places)
    for found, ends in ((straight, wanted), (turned, wanted[::-1])):
        estimates = found.estimates(Resampling(resamples=400))
        assert [one.value for one in estimates] == pytest.approx(ends)
        assert [one.draws.mean() for one in estimates] == pytest.approx(ends, abs=0.03)


def test_a_slice_of_which_an_item_is_not_among_the_others_is_not_paired() -> None:
    smaller = items(outcomes(25, 0), CHOSEN)
    without = np.setdiff1d(np.arange(60), CHOSEN[:1])
    larger = items(outcomes(59, 0), without)
    assert of_a_slice(larger, smaller) is None
    with pytest.raises(NoInterval, match="not of the same items"):
        pair(0.5, smaller, 0.5, larger)
    nameless = Items("other", (25,), smaller.values, smaller.weights, exponential=False)
    assert of_a_slice(larger, nameless) is None
