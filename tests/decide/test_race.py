"""A race spends items where the answer of all items is open, and gives that answer; populations here are imagined."""

from statistics import NormalDist

import numpy as np
import pytest

from orchestrator.decide.candidates import Amount, Candidate
from orchestrator.decide.deciding import decide
from orchestrator.decide.foreseeing import NOTHING, Moments, answers, certain, field_of, seen_losses
from orchestrator.decide.limits import DOUBT
from orchestrator.decide.racing import DOUBT_LEFT, Race, RaceTask, schedule
from orchestrator.evidence.value import DENSE
from orchestrator.manifest.deciding import Quantity
from orchestrator.score.comparison import holm
from tests.support.simulated_rounds import variants

LOSS, MEMORY, DISK, SPEED, TIME = Quantity
SMALL = {LOSS: 1.0, MEMORY: 1.0}
DRAWS = 4000


def costs(*memories):
    """Dense and a variant for each further memory, in units of dense's."""
    return [
        Candidate(variant, None, {MEMORY: Amount(memory, np.full(DRAWS, memory), exact=True)})
        for variant, memory in zip((DENSE, *variants(len(memories))), (1.0, *memories), strict=True)
    ]


def population(generator, items, *breaks, dense=0.6):
    """Right or wrong [items, dense and variants]; each variant loses so large a share of what dense has right."""
    right = generator.random(items) < dense
    return np.stack([right, *(right & (generator.random(items) >= share) for share in breaks)], axis=1).astype(float)


def raced(candidates, limits, outcomes, guessing=0.25, seed=0):
    """The race over tasks' outcomes by name, in the order in which they stand."""
    field = field_of(candidates, limits, SMALL, DRAWS)
    race = Race(field, [RaceTask(name, len(found), guessing) for name, found in outcomes.items()], seed=seed)
    wanted = []
    while (slice_ := race.wanted()) is not None:
        wanted.append(slice_)
        columns = [field.variants.index(one) for one in slice_.variants]
        race.look(
            {name: Moments.over(outcomes[name][:n, columns], len(outcomes[name])) for name, n in slice_.items.items()}
        )
    return race, wanted


def of_all(candidates, limits, outcomes, preferred=SMALL):
    """What `decide` says with the losses of all items."""
    whole = seen_losses([Moments.over(found, len(found)) for found in outcomes.values()])
    normal = np.random.default_rng(5).multivariate_normal(whole.losses, whole.full, DRAWS).T
    with_losses = [
        Candidate(one.variant, None, {**one.amounts, LOSS: Amount(float(loss), draws, exact=one.variant.is_dense)})
        for one, loss, draws in zip(candidates, whole.losses, normal, strict=True)
    ]
    picture = decide(with_losses, limits, preferred, DRAWS)
    return NOTHING if picture.recommended is None else picture.recommended, picture.alike


def test_what_is_certain_is_so_after_holms_correction():
    generator = np.random.default_rng(1)
    apart, asked = generator.normal(1.8, 1.0, (200, 6)), generator.random((200, 6)) < 0.7
    for row, among, found in zip(apart, asked, certain(apart, asked), strict=True):
        doubts = {place: NormalDist().cdf(-row[place]) for place in np.flatnonzero(among)}
        sure = {place for place, doubt in holm(doubts).items() if doubt <= DOUBT}
        assert set(np.flatnonzero(found)) == sure
    assert certain(apart, asked).any()


@pytest.mark.parametrize("limit", [0.01, 0.03, 0.06, None])
@pytest.mark.parametrize("preferred", [SMALL, {MEMORY: 1.0}])
def test_the_rule_on_all_items_is_that_of_a_decision(limit, preferred):
    """Without a weight on the loss those of equal memory are equals."""
    candidates = costs(0.9, 0.7, 0.7, 0.3, 0.3)
    limits = {} if limit is None else {LOSS: limit}
    field = field_of(candidates, limits, preferred, DRAWS)
    for seed in range(12):
        outcomes = {"one": population(np.random.default_rng(seed), 3000, 0.002, 0.01, 0.012, 0.045, 0.15)}
        whole = seen_losses([Moments.over(outcomes["one"], 3000)])
        found = answers(field, whole.losses[None], whole.full)
        recommended, alike = of_all(candidates, limits, outcomes, preferred)
        assert found.chosen[0] == recommended
        assert set(np.flatnonzero(found.alike[0])) == {recommended, *alike}


def test_a_race_gives_the_answer_of_all_items_for_fewer_even_near_the_limit():
    """The true losses lie about the limit, so that all items decide now this way, now that."""
    candidates, limits = costs(0.8, 0.6, 0.5), {LOSS: 0.04}
    wrong, spent, given = 0, [], set()
    for seed in range(30):
        generator = np.random.default_rng(seed)
        outcomes = {"one": population(generator, 4000, 0.001, 0.033, 0.2)}
        race, wanted = raced(candidates, limits, outcomes, seed=seed)
        recommended, alike = of_all(candidates, limits, outcomes)
        wrong += race.answer not in (recommended, *alike)
        given.add(recommended)
        most = {one: max(part.items["one"] for part in wanted if one in part.variants) for one in race.field.variants}
        spent.append(sum(most.values()) / (4 * 4000))
    assert len(given) > 1
    assert wrong <= 30 * DOUBT_LEFT + 2
    assert np.mean(spent) < 0.75


def test_what_a_cost_excludes_is_never_scored():
    candidates, generator = costs(0.9, 0.4), np.random.default_rng(2)
    race, wanted = raced(candidates, {LOSS: 0.05, MEMORY: 0.5}, {"one": population(generator, 2000, 0.0, 0.001)})
    assert race.answer == 2
    assert not any(candidates[1].variant in one.variants for one in wanted)
    race, wanted = raced(candidates, {MEMORY: 0.2}, {"one": population(generator, 2000, 0.0, 0.001)})
    assert (race.answer, wanted) == (NOTHING, [])


def test_only_dense_is_scored_on_a_task_at_which_it_guesses():
    generator = np.random.default_rng(3)
    outcomes = {
        "known": population(generator, 2000, 0.01),
        "guessed": (generator.random((2000, 2)) < 0.25).astype(float),
    }
    race, wanted = raced(costs(0.5), {LOSS: 0.1}, outcomes)
    assert race.counted == ("known",)
    assert race.answer == 1
    assert all(one.variants == (DENSE,) for one in wanted if "guessed" in one.items)


def test_a_first_slice_without_any_difference_decides_nothing():
    """100 items of which none differs are what one in 20 variants shows that loses 5 %."""
    outcomes = {"one": population(np.random.default_rng(4), 5000, 0.0)}
    race, wanted = raced(costs(0.5), {LOSS: 0.02}, outcomes)
    compressed = [one.items["one"] for one in wanted if len(one.variants) > 1]
    assert race.answer == 1
    assert compressed[0] == 100
    assert len(compressed) > 2
    assert compressed[-1] < 5000


def test_a_variant_that_is_out_falls_with_a_reason_and_is_not_scored_again():
    candidates = costs(0.6, 0.5)
    outcomes = {"one": population(np.random.default_rng(6), 4000, 0.015, 0.4)}
    race, wanted = raced(candidates, {LOSS: 0.02}, outcomes)
    out = candidates[2].variant
    (number,) = [place for place, look in enumerate(race.looks) if out in look.fell]
    assert "to be at most 2.0%" in race.looks[number].fell[out]
    assert not any(out in one.variants for one in wanted[number + 1 :])
    assert len(wanted) > number + 1


def test_slices_double_up_to_the_largest_task():
    assert schedule(900) == (100, 200, 400, 800, 900)
    assert schedule(40) == (100,)
