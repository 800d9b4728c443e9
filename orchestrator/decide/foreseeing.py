"""What all items will answer, foreseen from some: the rule of `deciding`, on many imagined full runs at once.

The rule's shares of draws are taken for those of a normal distribution, which they come to for a mean of many items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from orchestrator.decide.accuracy import PLUS
from orchestrator.decide.candidates import Candidate
from orchestrator.decide.limits import DOUBT, Standing, judge, standing
from orchestrator.decide.ranking import in_use, references, utility
from orchestrator.evidence.value import DENSE, Variant
from orchestrator.figures.metrics import Floats
from orchestrator.manifest.deciding import BROUGHT, Quantity

NOTHING = -1
"""The number of the candidate where nothing can be recommended."""
_LEAST = 1e-12


@dataclass(frozen=True)
class Field:
    """What costs alone say of the candidates, in their order.

    `variants` begin with dense, `column` [candidates] is each one's among them. `eligible` [candidates] keep all limits
    on costs and have each cost that is preferred. `asked` [variants] are compressed and not excluded by a cost, so that
    the limit on the loss is asked of them. `doublings` [candidates] is the utility of the costs, `variances`
    [candidates, candidates] are those of its differences; what is not `sure` [candidates] is told apart from nothing.
    """

    candidates: Sequence[Candidate]
    variants: tuple[Variant, ...]
    column: NDArray[np.int64]
    eligible: NDArray[np.bool_]
    asked: NDArray[np.bool_]
    doublings: Floats
    variances: Floats
    sure: NDArray[np.bool_]
    max_loss: float | None
    loss_weight: float

    @property
    def could_be_chosen(self) -> tuple[Variant, ...]:
        """The compressed variants whose loss can matter, in order."""
        numbers = {int(column) for column in self.column[self.eligible]}
        return tuple(one for number, one in enumerate(self.variants) if number in numbers and not one.is_dense)


def field_of(
    candidates: Sequence[Candidate],
    limits: Mapping[Quantity, float],
    preferred: Mapping[Quantity, float],
    resamples: int,
) -> Field:
    """Of candidates that have no loss yet; all draws are of the same `resamples`."""
    judged = judge(candidates, {quantity: limit for quantity, limit in limits.items() if quantity is not Quantity.LOSS})
    standings = [standing(one) for one in judged]
    weights = in_use(candidates, preferred)
    weights.pop(Quantity.LOSS, None)
    brought = any(quantity in weights for quantity in BROUGHT)
    reference = references(candidates)
    utilities = [utility(one, reference, weights, resamples) if brought else None for one in candidates]
    drawn = np.stack([np.zeros(resamples) if one is None else one.draws for one in utilities])
    spread = np.atleast_2d(np.cov(drawn))
    variants = (DENSE, *dict.fromkeys(one.variant for one in candidates if not one.variant.is_dense))
    column = np.array([variants.index(one.variant) for one in candidates])
    out = np.array([one is Standing.EXCLUDED for one in standings])
    return Field(
        candidates=candidates,
        variants=variants,
        column=column,
        eligible=np.array(
            [one is Standing.ADMITTED and found is not None for one, found in zip(standings, utilities, strict=True)]
        ),
        asked=np.array([bool(number) and not out[column == number].all() for number in range(len(variants))]),
        doublings=np.array([0.0 if one is None else one.value for one in utilities]),
        variances=np.maximum(np.diag(spread)[:, None] + np.diag(spread) - 2 * spread, 0.0),
        sure=np.array([one is not None and one.sure for one in utilities]),
        max_loss=limits.get(Quantity.LOSS),
        loss_weight=preferred.get(Quantity.LOSS, 0.0),
    )


@dataclass(frozen=True)
class Answers:
    """To many rows of losses: the number of the candidate that is recommended, or `NOTHING` [rows], and which cannot be
    told apart from it, itself among them [rows, candidates]."""

    chosen: NDArray[np.int64]
    alike: NDArray[np.bool_]


def answers(field: Field, losses: Floats, covariance: Floats) -> Answers:
    """What is recommended for each row of losses [rows, variants].

    `covariance` [variants, variants] is that of the losses over so many items. A loss that is NaN is not known, and
    keeps no limit.
    """
    admitted = field.eligible & _kept(field, losses, np.sqrt(np.diag(covariance)))[:, field.column]
    known = np.nan_to_num(losses, nan=1.0)[:, field.column]
    utilities = field.doublings + field.loss_weight * np.log2(np.maximum(1 - known, _LEAST))
    utilities = np.where(admitted, utilities, -np.inf)
    best = _best(utilities, known)
    alike = _alike(field, utilities, best, covariance)
    dense = np.where(alike & (field.column == 0), utilities, -np.inf)
    chosen = np.where(np.isfinite(dense).any(axis=1), _best(dense, known), best)
    return Answers(np.where(admitted.any(axis=1), chosen, NOTHING), alike)


def _best(utilities: Floats, losses: Floats) -> NDArray[np.int64]:
    """The column of each row's most utility [rows]; of equals, of the one that loses least."""
    is_most = utilities == utilities.max(axis=1, keepdims=True)
    return np.asarray(np.where(is_most, losses, np.inf).argmin(axis=1))


def _kept(field: Field, losses: Floats, deviations: Floats) -> NDArray[np.bool_]:
    """Whether each variant certainly keeps the limit on the loss [rows, variants]; dense does."""
    if field.max_loss is None:
        kept = np.ones(losses.shape, dtype=bool)
    else:
        kept = certain(_over(field.max_loss - losses, deviations), np.broadcast_to(field.asked, losses.shape))
    kept[:, 0] = True
    return kept


def _alike(field: Field, utilities: Floats, best: NDArray[np.int64], covariance: Floats) -> NDArray[np.bool_]:
    """What is admitted and not certainly worse than the best, which is among them [rows, candidates]."""
    rows = np.arange(len(best))
    among = np.diag(covariance)[:, None] + np.diag(covariance) - 2 * covariance
    of_losses = (field.loss_weight / np.log(2)) ** 2 * np.maximum(among, 0.0)[np.ix_(field.column, field.column)]
    deviations = np.sqrt(field.variances + of_losses)[best]
    with np.errstate(invalid="ignore"):
        ahead = utilities[rows, best][:, None] - utilities
        apart = np.where(field.sure & field.sure[best][:, None], _over(ahead, deviations), -np.inf)
    admitted = np.isfinite(utilities)
    others = admitted.copy()
    others[rows, best] = False
    return admitted & ~certain(apart, others)


def _over(apart: Floats, deviations: Floats) -> Floats:
    """In standard deviations; what does not vary is infinitely far from all but itself, which counts as beyond."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = apart / deviations
    return np.asarray(np.where(deviations > 0, found, np.where(apart > 0, np.inf, -np.inf)))


def certain(apart: Floats, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What is so many standard deviations clear of doubt [rows, columns] that Holm's step-down in its row, over what is
    asked, leaves at most `DOUBT` of it. See `orchestrator.score.comparison.holm`."""
    count = apart.shape[1]
    needed = np.array([np.inf, *(-NormalDist().inv_cdf(DOUBT / left) for left in range(1, count + 1))])
    clear = np.where(asked & ~np.isnan(apart), apart, -np.inf)
    order = np.argsort(-clear, axis=1)
    left = np.maximum(asked.sum(axis=1)[:, None] - np.arange(count), 0)
    passed = np.logical_and.accumulate(np.take_along_axis(clear, order, axis=1) >= needed[left], axis=1)
    found = np.empty_like(passed)
    np.put_along_axis(found, order, passed, axis=1)
    return found & asked


@dataclass(frozen=True)
class Moments:
    """Of one task, over the `items` scored of the `of` that there are: `means` [variants] and the `covariance`
    [variants, variants] of outcomes, dense first."""

    items: int
    of: int
    means: Floats
    covariance: Floats

    @classmethod
    def over(cls, outcomes: Floats, of: int) -> "Moments":
        """Of outcomes [items, variants]."""
        return cls(len(outcomes), of, outcomes.mean(axis=0), np.atleast_2d(np.cov(outcomes, rowvar=False)))

    def columns(self, numbers: Sequence[int]) -> "Moments":
        return Moments(self.items, self.of, self.means[numbers], self.covariance[np.ix_(numbers, numbers)])


@dataclass(frozen=True)
class SeenLosses:
    """Of variants, dense first, over tasks that count the same: `losses` [variants] as they were seen. Of the
    covariances [variants, variants], `seen` is that of these, `full` that of what all items come to, and `to_full` that
    of all items' losses around these."""

    losses: Floats
    seen: Floats
    full: Floats
    to_full: Floats


def seen_losses(tasks: Sequence[Moments]) -> SeenLosses:
    """By the delta method. What n of N items show of all N has the share (1 - n / N) of their variance.

    Imagined items are added as in `accuracy.lost`, so that few of which none differs leave a doubt here, too.
    """
    accuracies = np.mean([one.means for one in tasks], axis=0)
    dense = max(float(accuracies[0]), _LEAST)
    losses = 1 - accuracies / dense
    contrast = -np.eye(len(losses))
    contrast[:, 0] = 1 - losses
    contrast[0] = 0.0
    contrast /= dense * len(tasks)
    compressed = np.ones(len(losses))
    compressed[0] = 0.0

    def covariance(shares: Sequence[float], least: float) -> Floats:
        total = np.sum([share * one.covariance for share, one in zip(shares, tasks, strict=True)], axis=0)
        return np.asarray(contrast @ total @ contrast.T + np.diag(PLUS * least * compressed))

    scale = (dense * len(tasks)) ** 2
    left = [1 / one.items - 1 / one.of for one in tasks]
    return SeenLosses(
        losses=losses,
        seen=covariance([1 / one.items for one in tasks], max(1 / one.items**2 for one in tasks) / scale),
        full=covariance([1 / one.of for one in tasks], max(1 / one.of**2 for one in tasks) / scale),
        to_full=covariance(left, max(share / one.items for share, one in zip(left, tasks, strict=True)) / scale),
    )
