"""The arithmetic of estimates: draw by draw that of plain numbers, and an influence that is its derivative."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from orchestrator.evidence.estimate import Estimate, difference, greatest, least, mean, ratio, root_mean_square

ITEMS, DRAWS = 9, 40
RANDOM = np.random.default_rng(5)
OUTCOMES = {name: RANDOM.uniform(0.2, 2.0, (3, ITEMS)) for name in ("one set", "another")}
"""Of each set of items the outcomes of three variants [3, items]."""
FIGURES = [(name, variant) for name in OUTCOMES for variant in range(3)]
WEIGHTS = {name: RANDOM.multinomial(ITEMS, [1 / ITEMS] * ITEMS, DRAWS).astype(float) for name in OUTCOMES}
"""Of each set how often each draw takes an item [draws, items]."""
Plain = Callable[[Sequence[float]], float]


def rms(groups: Sequence[Sequence[float]]) -> float:
    return 100 * math.sqrt(sum(sum(one**2 for one in group) / len(group) for group in groups) / len(groups))


OPERATIONS: dict[str, tuple[Callable[[Sequence[Estimate]], Estimate], Plain]] = {
    "ratio of two sets": (lambda of: ratio(of[0], of[3]), lambda of: of[0] / of[3]),
    "ratio of one set": (lambda of: ratio(of[1], of[2]), lambda of: of[1] / of[2]),
    "difference": (lambda of: difference(of[0], of[1]), lambda of: of[0] - of[1]),
    "mean": (lambda of: mean(of[1:]), lambda of: sum(of[1:]) / 5),
    "greatest": (greatest, max),
    "least": (least, min),
    "one group": (lambda of: root_mean_square([of[:2]]), lambda of: rms([of[:2]])),
    "unequal groups": (lambda of: root_mean_square([of[:1], of[1:4]]), lambda of: rms([of[:1], of[1:4]])),
    "differences of ratios": (
        lambda of: difference(ratio(of[0], of[1]), ratio(of[2], of[4])),
        lambda of: of[0] / of[1] - of[2] / of[4],
    ),
}


def figures(weights: dict[str, np.ndarray]) -> list[float]:
    """The weighted mean of each variant's outcomes, as plain numbers."""
    return [float(np.average(OUTCOMES[name][variant], weights=weights[name])) for name, variant in FIGURES]


def plain_weights() -> dict[str, np.ndarray]:
    return {name: np.ones(ITEMS) for name in OUTCOMES}


def estimates() -> list[Estimate]:
    made = []
    for name, variant in FIGURES:
        outcomes = OUTCOMES[name][variant]
        draws = np.array([np.average(outcomes, weights=taken) for taken in WEIGHTS[name]])
        made.append(Estimate(float(outcomes.mean()), draws, {name: (outcomes - outcomes.mean()) / ITEMS}))
    return made


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_that_of_plain_numbers_in_the_figure_and_in_every_draw(name: str) -> None:
    of_estimates, of_numbers = OPERATIONS[name]
    found = of_estimates(estimates())
    assert found.value == pytest.approx(of_numbers(figures(plain_weights())))
    each = [of_numbers(figures({of: WEIGHTS[of][draw] for of in OUTCOMES})) for draw in range(DRAWS)]
    assert found.draws == pytest.approx(np.array(each))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_influence_is_how_the_figure_moves_with_the_weight_of_each_item(name: str) -> None:
    of_estimates, of_numbers = OPERATIONS[name]
    found = of_estimates(estimates())

    def moved(of: str, item: int, by: float) -> float:
        weights = plain_weights()
        weights[of][item] += by
        return of_numbers(figures(weights))

    step = 1e-5
    for of in OUTCOMES:
        slope = [(moved(of, item, step) - moved(of, item, -step)) / (2 * step) for item in range(ITEMS)]
        assert found.influence.get(of, np.zeros(ITEMS)) == pytest.approx(np.array(slope), abs=1e-8)


def drawn(value: float, *draws: float) -> Estimate:
    return Estimate(value, np.array(draws), {"items": np.array([1.0, -1.0])})


@pytest.mark.filterwarnings("error")
def test_a_ratio_to_nothing_is_one_of_equals_and_else_without_bound() -> None:
    found = ratio(drawn(2.0, 0.0, 3.0, 6.0), drawn(1.0, 0.0, 0.0, 2.0))
    assert found.draws.tolist() == [1.0, math.inf, 3.0]


@pytest.mark.filterwarnings("error")
def test_two_that_are_both_without_bound_differ_by_nothing() -> None:
    found = difference(drawn(2.0, math.inf, math.inf, 5.0), drawn(1.0, math.inf, 1.0, 2.0))
    assert found.draws.tolist() == [0.0, math.inf, 3.0]


def test_of_ratios_that_are_all_nothing_no_item_has_influence() -> None:
    found = root_mean_square([[drawn(0.0, 0.0, 1.0)], [drawn(0.0, 0.0, 1.0)]])
    assert (found.value, found.draws.tolist()) == (0.0, [0.0, 100.0])
    assert found.influence["items"].tolist() == [0.0, 0.0]
