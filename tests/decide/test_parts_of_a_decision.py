"""Limits, the Pareto set, the ranking and its groups, on amounts whose draws are plain to see."""

import numpy as np
import pytest

from orchestrator.decide import limits as limits_module
from orchestrator.decide.candidates import Amount, Candidate
from orchestrator.decide.deciding import decide
from orchestrator.decide.limits import Standing, Verdict, judge, standing
from orchestrator.decide.pareto import pareto_probabilities
from orchestrator.decide.ranking import best_probabilities, groups, in_use, references, utility
from orchestrator.evidence.value import DENSE, Variant
from orchestrator.manifest.deciding import Quantity

DRAWS = 1000
LOSS, MEMORY, DISK, SPEED, TIME = Quantity
EQUAL = {MEMORY: 1.0, SPEED: 1.0}
NORMAL = np.random.default_rng(3).standard_normal((8, DRAWS))


def exact(value):
    return Amount(value, np.full(DRAWS, value), exact=True)


def about(value, spread, row=0):
    return Amount(value, value + spread * NORMAL[row])


def once(value):
    return Amount(value, None, "one round: no interval")


def candidate(name, **amounts):
    variant = DENSE if name == "dense" else Variant(method=name, setting="50%")
    made = {Quantity(key): one if isinstance(one, Amount) else exact(one) for key, one in amounts.items()}
    return Candidate(variant, "any", made, {one: "not asked for" for one in Quantity if one not in made})


DENSE_ONE = candidate("dense", loss=0.0, memory=100.0, speed=50.0, time=0.0)


def verdict(amount, limit, quantity=LOSS):
    (found,) = judge([candidate("one", **{quantity.value: amount})], {quantity: limit})
    return found[quantity].verdict


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (about(0.01, 0.002), Verdict.KEPT),
        (about(0.015, 0.005), Verdict.PROBABLY_KEPT),
        (about(0.02, 0.01), Verdict.CANNOT_TELL),
        (about(0.025, 0.005), Verdict.PROBABLY_BROKEN),
        (about(0.05, 0.005), Verdict.BROKEN),
        (once(0.01), Verdict.CANNOT_TELL),
        (once(0.05), Verdict.CANNOT_TELL),
    ],
)
def test_how_surely_a_loss_of_2_percent_is_kept(amount, expected):
    assert verdict(amount, 0.02) is expected


def test_a_cost_that_was_measured_once_is_judged_by_its_figure_and_never_called_certain():
    assert verdict(once(90.0), 100.0, MEMORY) is Verdict.PROBABLY_KEPT
    assert verdict(once(110.0), 100.0, MEMORY) is Verdict.PROBABLY_BROKEN
    assert verdict(once(110.0), 100.0, SPEED) is Verdict.PROBABLY_KEPT


def test_what_a_cost_excludes_is_not_corrected_for_in_the_loss():
    near = candidate("near", loss=about(0.01, 0.0048), memory=10.0)
    big = [candidate(f"big{row}", loss=about(0.01, 0.0048, row), memory=1000.0) for row in range(1, 5)]
    alone, *_ = judge([near, *big], {LOSS: 0.02, MEMORY: 100.0})
    among, *_ = judge([near, *big], {LOSS: 0.02})
    assert alone[LOSS].verdict is Verdict.KEPT
    assert among[LOSS].verdict is Verdict.PROBABLY_KEPT
    assert alone[LOSS].probability == among[LOSS].probability > 0.95


def test_of_many_that_break_a_limit_one_would_look_as_if_it_did_not(monkeypatch):
    def share_of_wrong():
        wrong = 0
        for run in range(200):
            figures = 0.0205 + 0.01 * np.random.default_rng(run).standard_normal(8)
            others = [
                candidate(f"m{row}", loss=Amount(one, one + 0.01 * NORMAL[row])) for row, one in enumerate(figures)
            ]
            wrong += any(standing(one) is Standing.ADMITTED for one in judge(others, {LOSS: 0.02}))
        return wrong / 200

    assert share_of_wrong() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    monkeypatch.setattr(limits_module, "holm", dict)
    assert share_of_wrong() > 0.2


def test_a_limit_without_an_amount_leaves_the_candidate_open():
    (found,) = judge([candidate("one", loss=0.0)], {LOSS: 0.02, MEMORY: 1.0})
    assert found[MEMORY].verdict is Verdict.NOT_MEASURED
    assert found[MEMORY].reason == "not asked for"
    assert standing(found) is Standing.OPEN


def test_the_pareto_set_has_what_nothing_beats_in_all():
    small, worse, fast = (
        candidate("small", loss=0.01, memory=50.0, speed=50.0, time=1.0),
        candidate("worse", loss=0.01, memory=60.0, speed=50.0, time=1.0),
        candidate("fast", loss=0.02, memory=60.0, speed=80.0, time=1.0),
    )
    assert pareto_probabilities([DENSE_ONE, small, worse, fast], DRAWS) == [1.0, 1.0, 0.0, 1.0]


def test_twins_are_both_in_the_pareto_set_and_noise_leaves_it_unsure():
    one = candidate("one", loss=0.01, memory=50.0)
    noisy = [candidate(name, loss=0.01, memory=about(50.0, 1.0, row)) for row, name in enumerate(("x", "y"))]
    assert pareto_probabilities([one, one], DRAWS) == [1.0, 1.0]
    found = pareto_probabilities(noisy, DRAWS)
    assert sum(found) == pytest.approx(1.0)
    assert 0.4 < found[0] < 0.6


def test_what_lacks_an_amount_neither_beats_nor_is_beaten():
    bare, full = candidate("bare", loss=0.0), candidate("full", loss=0.1, memory=50.0)
    assert pareto_probabilities([bare, full], DRAWS) == [1.0, 1.0]


def test_the_utility_is_in_doublings():
    one = candidate("one", loss=0.0, memory=25.0, speed=100.0, disk=1.0, time=3600.0)
    found = utility(one, references([DENSE_ONE, one]), {MEMORY: 1.0, SPEED: 3.0, TIME: 0.5}, DRAWS)
    assert found.value == pytest.approx(2 + 3 * 1 - 0.5)
    assert set(found.draws) == {found.value}
    assert utility(DENSE_ONE, references([DENSE_ONE, one]), {DISK: 1.0}, DRAWS) is None


def test_groups_are_those_that_noise_may_have_put_in_their_order():
    made = [candidate(f"m{row}", memory=about(value, 1.0, row)) for row, value in enumerate((50, 50.5, 70, 71, 100))]
    weights = in_use(made, EQUAL)
    assert weights == {MEMORY: 1.0}
    reference = references([DENSE_ONE])
    assert groups([utility(one, reference, weights, DRAWS) for one in made]) == [1, 1, 2, 2, 3]


def test_what_moves_together_is_told_apart_by_less():
    apart = [candidate(f"m{row}", speed=about(value, 2.0, row)) for row, value in enumerate((50.0, 52.0))]
    together = [candidate(f"m{value}", speed=about(value, 2.0)) for value in (50.0, 52.0)]
    reference = references([DENSE_ONE])
    assert groups([utility(one, reference, {SPEED: 1.0}, DRAWS) for one in apart]) == [1, 1]
    assert groups([utility(one, reference, {SPEED: 1.0}, DRAWS) for one in together]) == [2, 1]


def test_a_cost_that_was_measured_once_tells_nothing_apart_and_moves_nobody_from_dense():
    fast = candidate("fast", loss=0.0, memory=100.0, speed=once(200.0), time=1.0)
    found = decide([DENSE_ONE, fast], {LOSS: 0.02}, EQUAL, DRAWS)
    assert found.recommended == 0
    assert found.alike == (1,)
    assert best_probabilities(list(found.utilities.values())) == [None, None]
    assert decide([DENSE_ONE, fast], {LOSS: 0.02, SPEED: 100.0}, EQUAL, DRAWS).recommended == 1


def test_dense_stays_unless_something_is_certainly_better():
    better = candidate("better", loss=about(0.0, 0.001), memory=50.0, speed=about(50.0, 1.0))
    same = candidate("same", loss=about(0.0, 0.001), memory=99.9, speed=about(51.0, 1.0))
    assert decide([DENSE_ONE, same], {LOSS: 0.02}, EQUAL, DRAWS).recommended == 0
    assert decide([DENSE_ONE, same, better], {LOSS: 0.02}, EQUAL, DRAWS).recommended == 2


def test_of_equals_the_one_that_loses_least_is_recommended_though_a_loss_has_no_weight():
    loses, keeps = (candidate(name, loss=loss, memory=50.0) for name, loss in (("loses", 0.015), ("keeps", 0.005)))
    for order in ([loses, keeps], [keeps, loses]):
        found = decide([DENSE_ONE, *order], {LOSS: 0.02}, {MEMORY: 1.0}, DRAWS)
        assert found.recommended == 1 + order.index(keeps)
        assert found.alike == (1 + order.index(loses),)


def test_nothing_is_recommended_where_nothing_certainly_keeps_the_limits_and_why_is_counted():
    worse = candidate("worse", loss=about(0.02, 0.01), memory=50.0, speed=50.0)
    found = decide([DENSE_ONE, worse], {LOSS: 0.02, MEMORY: 60.0}, EQUAL, DRAWS)
    assert found.recommended is None
    assert found.why_none == (
        "1 of 2 certainly break the limit on memory, 1 of 2 are not certain to keep the limit on the loss"
    )


def test_nothing_is_recommended_where_nothing_shows_what_compressing_brings():
    found = decide([candidate("dense", loss=0.0), candidate("one", loss=0.0)], {LOSS: 0.02}, EQUAL, DRAWS)
    assert found.recommended is None
    assert "nothing shows what compressing would bring" in found.why_none
    assert decide([candidate("dense"), candidate("one")], {LOSS: 0.02}, EQUAL, DRAWS).utilities == {}


def test_a_preference_for_nothing_that_compressing_brings_is_said_to_be_one():
    better = candidate("better", loss=about(0.0, 0.001), memory=50.0, speed=about(60.0, 1.0))
    found = decide([DENSE_ONE, better], {LOSS: 0.02}, {LOSS: 1.0, MEMORY: 0.0}, DRAWS)
    assert found.recommended is None
    assert found.why_none == "memory, disk and speed are what compressing brings, and none of them is preferred"
