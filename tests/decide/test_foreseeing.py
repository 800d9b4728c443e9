"""What is foreseen of all items is as unsure as it says: neither surer, nor less sure.

No bound here would hold were the variances four times as large, or a fourth: that is tested, too.
"""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.decide import racing
from orchestrator.decide.candidates import Amount, Candidate
from orchestrator.decide.foreseeing import Moments, answers, field_of, seen_losses
from orchestrator.decide.racing import Race, RaceTask
from orchestrator.evidence.value import DENSE
from orchestrator.manifest.deciding import Quantity
from tests.support.simulated_rounds import variants

ITEMS, SCORED, POPULATIONS = 1600, 400, 300
BREAKS = (0.02, 0.1, 0.3)
"""Of what dense has right, the share that each variant gets wrong; half as often it has right what dense has not."""
ACCURACIES = (0.7, 0.5)
"""Of dense, in two tasks."""
MEAN_SQUARE = (0.75, 1.25)
COVERED = (0.92, 0.98)
"""Of the intervals of 95 %."""


def outcomes(generator, accuracy, breaks=BREAKS, items=ITEMS):
    """Right or wrong [items, dense and variants]."""
    right = generator.random(items) < accuracy
    flips = [generator.random(items) < np.where(right, share, share / 2) for share in breaks]
    return np.stack([right, *(right ^ flip for flip in flips)], axis=1).astype(float)


def true_losses():
    dense = np.mean(ACCURACIES)
    return np.array([1 - np.mean([a * (1 - b) + (1 - a) * b / 2 for a in ACCURACIES]) / dense for b in BREAKS])


@pytest.fixture(scope="module")
def looks():
    """Of each population what was seen of some items, and of all."""
    found = []
    for seed in range(POPULATIONS):
        generator = np.random.default_rng([3, seed])
        tasks = [outcomes(generator, accuracy) for accuracy in ACCURACIES]
        found.append(
            (
                seen_losses([Moments.over(task[:SCORED], ITEMS) for task in tasks]),
                seen_losses([Moments.over(task, ITEMS) for task in tasks]),
            )
        )
    return found


def spreads(looks):
    """By what is foreseen: how far the truth was off [populations, losses and their differences], in its deviations."""
    differ = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, -1, 1, 0], [0, 0, -1, 1]])
    truth = np.concatenate([[0.0], true_losses()])

    def off(apart, covariance):
        return differ @ apart / np.sqrt(np.diag(differ @ covariance @ differ.T))

    return {
        "all items around some": np.array([off(whole.losses - some.losses, some.to_full) for some, whole in looks]),
        "some items around the truth": np.array([off(some.losses - truth, some.seen) for some, _ in looks]),
        "all items around the truth": np.array([off(whole.losses - truth, some.full) for some, whole in looks]),
    }


def within(deviations, scale=1.0):
    """Whether deviations are those of a standard normal distribution, were all foreseen variances times `scale`."""
    squares = deviations**2 / scale
    return (
        MEAN_SQUARE[0] < squares.mean() < MEAN_SQUARE[1]
        and COVERED[0] < (squares < 1.96**2).mean() < COVERED[1]
        and (np.abs(np.mean(deviations, axis=0)) < 0.25).all()
    )


@pytest.mark.parametrize("what", ["all items around some", "some items around the truth", "all items around the truth"])
def test_losses_lie_as_far_off_as_is_foreseen(looks, what):
    assert within(spreads(looks)[what])


def flipped(generator, loss):
    """As `outcomes` of one variant, that differs from dense in 15 of 100 items, whatever it loses."""
    right = generator.random(ITEMS) < 0.7
    shares = np.where(right, 0.075 / 0.7 + loss / 2, (0.075 - 0.35 * loss) / 0.3)
    return np.stack([right, right ^ (generator.random(ITEMS) < shares)], axis=1).astype(float)


def foreseen_shares(populations=250):
    """The share of imagined full runs with the answer of what was seen, and whether all items give it [populations].

    The losses are drawn from all that the items seen may come from: of one that is given, a share has no truth.
    """
    candidates = [
        Candidate(variant, None, {Quantity.MEMORY: Amount(memory, np.full(1000, memory), exact=True)})
        for variant, memory in zip((DENSE, *variants(1)), (1.0, 0.5), strict=True)
    ]
    field = field_of(candidates, {Quantity.LOSS: 0.045}, {Quantity.LOSS: 1.0, Quantity.MEMORY: 1.0}, 1000)
    likely, came_true = [], []
    for seed in range(populations):
        generator = np.random.default_rng([4, seed])
        found = flipped(generator, generator.uniform(-0.1, 0.2))
        race = Race(field, [RaceTask("one", ITEMS, None)], seed=seed)
        race.look({"one": Moments.over(found[:100], ITEMS)})
        some = seen_losses([Moments.over(found[:100], ITEMS)])
        whole = seen_losses([Moments.over(found, ITEMS)])
        likely.append(race.looks[0].likely)
        came_true.append(
            answers(field, some.losses[None], some.seen).chosen[0]
            == answers(field, whole.losses[None], whole.full).chosen[0]
        )
    return np.array(likely), np.array(came_true)


@pytest.mark.parametrize("what", ["all items around some", "some items around the truth", "all items around the truth"])
@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_the_bounds_on_losses_notice_a_wrong_variance(looks, what, scale):
    assert not within(spreads(looks)[what], scale)


def test_answers_come_true_as_often_as_is_foreseen(monkeypatch):
    """By the mean logarithm of what was foreseen of that which came: with another variance it would be less."""

    def score(scale):
        def scaled(tasks):
            found = seen_losses(tasks)
            return replace(found, to_full=scale * found.to_full)

        monkeypatch.setattr(racing, "seen_losses", scaled)
        likely, came_true = foreseen_shares()
        return np.log(np.clip(np.where(came_true, likely, 1 - likely), 1e-3, 1)).mean()

    assert score(1.0) > max(score(0.25), score(4.0)) + 0.02
