"""Imagined runs to decide on, whose truth is known: items whose outcomes go together, costs with noise in rounds.

The draws are those of `orchestrator.evidence`, for all runs at once: a paired bootstrap of the items, and the t
distribution of a mean of rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.decide.accuracy import lost
from orchestrator.decide.candidates import Amount, Candidate
from orchestrator.evidence.estimate import Estimate
from orchestrator.evidence.value import DENSE
from orchestrator.manifest.deciding import Quantity
from tests.support.simulated_rounds import variants

DRAWS = 400
DENSE_ACCURACY = 0.6
DENSE_SPEED = 100.0
ROUNDS = 3


@dataclass(frozen=True)
class Truth:
    """Of one variant: the share of the items that dense has right and it has wrong, and the reverse; `memory` is of
    dense's, which is 1, and `speed` times dense's."""

    breaks: float
    mends: float
    memory: float
    speed: float

    @property
    def loss(self) -> float:
        return self.breaks - self.mends * (1 - DENSE_ACCURACY) / DENSE_ACCURACY

    def amount(self, quantity: Quantity) -> float:
        return {
            Quantity.LOSS: self.loss,
            Quantity.MEMORY: self.memory,
            Quantity.SPEED: DENSE_SPEED * self.speed,
        }[quantity]


DENSE_TRUTH = Truth(breaks=0.0, mends=0.0, memory=1.0, speed=1.0)


def imagined_runs(
    truths: Sequence[Truth], *, runs: int, items: int, noise: float = 0.05, seed: int = 7
) -> list[tuple[Candidate, ...]]:
    """The candidates of each run, dense first. `noise` is that of one process, relative."""
    generator = np.random.default_rng(seed)
    right = _outcomes(generator, truths, runs, items)
    counts = generator.multinomial(items, np.full(items, 1 / items), size=DRAWS).astype(float)
    means = np.einsum("di,riv->rvd", counts, right, optimize=True) / items
    figures = right.mean(axis=1)
    imagined = generator.standard_normal((len(truths), DRAWS))
    speeds, deviations = _speeds(generator, truths, runs, noise)
    return [
        _candidates(truths, items, figures[run], means[run], imagined, speeds[run], deviations[run])
        for run in range(runs)
    ]


def _outcomes(generator: np.random.Generator, truths: Sequence[Truth], runs: int, items: int) -> np.ndarray:
    """Right or wrong [runs, items, dense and variants]. An item that turns easily does so for all variants."""
    dense = generator.random((runs, items)) < DENSE_ACCURACY
    easily = generator.gamma(2.0, 0.5, (runs, items))
    columns = [dense]
    for truth in truths:
        turns = np.where(dense, truth.breaks, truth.mends) * easily
        columns.append(dense ^ (generator.random((runs, items)) < turns))
    return np.stack(columns, axis=-1).astype(float)


def _speeds(
    generator: np.random.Generator, truths: Sequence[Truth], runs: int, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Figures [runs, variants] and the factors of their draws [runs, variants, draws]: noise is found out from what
    is left over, as in `orchestrator.evidence.rounds`."""
    true = DENSE_SPEED * np.array([1.0, *(truth.speed for truth in truths)])
    off = noise * generator.standard_normal((runs, len(true), ROUNDS))
    freedom = len(true) * (ROUNDS - 1)
    spread = np.sqrt(off.var(axis=2, ddof=1).mean(axis=1))
    drawn = generator.standard_t(freedom, (len(true), DRAWS))
    return true * np.exp(off.mean(axis=2)), np.exp(spread[:, None, None] * drawn / np.sqrt(ROUNDS))


def _candidates(
    truths: Sequence[Truth],
    items: int,
    figures: np.ndarray,
    means: np.ndarray,
    imagined: np.ndarray,
    speeds: np.ndarray,
    deviations: np.ndarray,
) -> tuple[Candidate, ...]:
    dense = Estimate(float(figures[0]), means[0], {})
    found = []
    for index, (variant, truth) in enumerate(zip((DENSE, *variants(len(truths))), (DENSE_TRUTH, *truths), strict=True)):
        loss = Amount(0.0, np.zeros(DRAWS), exact=True)
        if index:
            own = Estimate(float(figures[index]), means[index], {})
            loss = Amount(1 - own.value / dense.value, lost([(own, dense)], [items], imagined[index - 1]))
        amounts = {
            Quantity.LOSS: loss,
            Quantity.MEMORY: Amount(truth.memory, np.full(DRAWS, truth.memory), exact=True),
            Quantity.SPEED: Amount(float(speeds[index]), speeds[index] * deviations[index]),
        }
        found.append(Candidate(variant, "any", amounts))
    return tuple(found)
