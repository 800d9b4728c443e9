"""Which candidates keep the limits, and how surely.

That a candidate keeps a limit is certain where at most 5 % of the draws break it, corrected by Holm's step-down for all
candidates that are asked the same: of several that break it in truth, one would look as if it did not by chance. So
what is recommended breaks the limit on the loss in at most 5 of 100 decisions (tests/decide), and each other limit
likewise. A candidate has to keep all limits, which takes no correction (an intersection-union test).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from orchestrator.decide.candidates import Amount, Candidate
from orchestrator.evidence.interval import CONFIDENCE_PERCENT
from orchestrator.manifest.deciding import Quantity
from orchestrator.score.comparison import holm

DOUBT = 1 - CONFIDENCE_PERCENT / 100
PROBABLE = 0.8
"""Share of the draws from which on a limit is probably kept; probably not from 1 less this."""


class Verdict(StrEnum):
    """In the order of hope. One that is `NOT_MEASURED` may be anything."""

    KEPT = "certainly"
    PROBABLY_KEPT = "probably"
    CANNOT_TELL = "cannot tell"
    NOT_MEASURED = "not measured"
    PROBABLY_BROKEN = "probably not"
    BROKEN = "certainly not"


class Standing(StrEnum):
    ADMITTED = "admitted"
    OPEN = "open"
    EXCLUDED = "excluded"


@dataclass(frozen=True)
class Judged:
    """`probability` is the share of the draws that keep the limit, None where there is no amount; `by_figure_alone`:
    there are no draws, and the figure decides."""

    quantity: Quantity
    limit: float
    verdict: Verdict
    probability: float | None
    by_figure_alone: bool
    reason: str | None


def judge(candidates: Sequence[Candidate], limits: Mapping[Quantity, float]) -> list[dict[Quantity, Judged]]:
    """Every limit on every candidate. The loss is a variant's, whatever serves it, and is judged last: what a cost
    excludes certainly is not asked for its loss, so that fewer are to be corrected for."""
    judged: list[dict[Quantity, Judged]] = [{} for _ in candidates]
    for quantity in sorted(limits, key=lambda one: one is Quantity.LOSS):
        asked = [index for index, before in enumerate(judged) if quantity is not Quantity.LOSS or not _is_out(before)]
        names = [_name(candidates[index], quantity) for index in range(len(candidates))]
        family = {names[index]: candidates[index].amounts.get(quantity) for index in asked}
        sure = _certainties(quantity, family, limits[quantity])
        for index, one in enumerate(candidates):
            amount = one.amounts.get(quantity)
            judged[index][quantity] = _judged(
                quantity, limits[quantity], amount, sure.get(names[index]), one.missing.get(quantity)
            )
    return judged


def standing(judged: Mapping[Quantity, Judged]) -> Standing:
    if _is_out(judged):
        return Standing.EXCLUDED
    kept = all(one.verdict is Verdict.KEPT or _kept_by_figure(one) for one in judged.values())
    return Standing.ADMITTED if kept else Standing.OPEN


def _is_out(judged: Mapping[Quantity, Judged]) -> bool:
    return any(one.verdict is Verdict.BROKEN for one in judged.values())


def _kept_by_figure(one: Judged) -> bool:
    """A cost that was measured once has no interval; a loss without one never counts as kept."""
    return one.by_figure_alone and one.quantity is not Quantity.LOSS and one.verdict is Verdict.PROBABLY_KEPT


def _name(candidate: Candidate, quantity: Quantity) -> Hashable:
    return candidate.variant if quantity is Quantity.LOSS else (candidate.variant, candidate.backend)


def keeps(quantity: Quantity, amounts: NDArray[np.float64], limit: float) -> NDArray[np.bool_]:
    return amounts >= limit if quantity.higher_is_better else amounts <= limit


def _certainties(
    quantity: Quantity, family: Mapping[Hashable, Amount | None], limit: float
) -> dict[Hashable, Verdict | None]:
    """KEPT and BROKEN where that is certain after the correction."""
    drawn = {
        name: (amount, keeps(quantity, amount.draws, limit))
        for name, amount in family.items()
        if amount is not None and amount.draws is not None
    }
    kept = holm({name: _doubt(amount, ~holds) for name, (amount, holds) in drawn.items()})
    broken = holm({name: _doubt(amount, holds) for name, (amount, holds) in drawn.items()})
    return {
        name: Verdict.KEPT if kept[name] <= DOUBT else Verdict.BROKEN if broken[name] <= DOUBT else None
        for name in drawn
    }


def _doubt(amount: Amount, against: NDArray[np.bool_]) -> float:
    """Never less than so many draws can show, but of what is counted."""
    if amount.exact:
        return float(against.any())
    return float(np.sum(against) + 1) / (len(against) + 1)


def _judged(
    quantity: Quantity, limit: float, amount: Amount | None, sure: Verdict | None, missing: str | None
) -> Judged:
    if amount is None:
        return Judged(quantity, limit, Verdict.NOT_MEASURED, None, by_figure_alone=False, reason=missing)
    if amount.draws is None:
        kept = bool(keeps(quantity, np.array([amount.value]), limit)[0])
        verdict = Verdict.PROBABLY_KEPT if kept else Verdict.PROBABLY_BROKEN
        if quantity is Quantity.LOSS:
            verdict = Verdict.CANNOT_TELL
        return Judged(quantity, limit, verdict, None, by_figure_alone=True, reason=amount.reason)
    share = float(np.mean(keeps(quantity, amount.draws, limit)))
    if amount.exact:
        sure = Verdict.KEPT if share else Verdict.BROKEN
    return Judged(quantity, limit, sure or _likely(share), share, by_figure_alone=False, reason=None)


def _likely(share: float) -> Verdict:
    if share >= PROBABLE:
        return Verdict.PROBABLY_KEPT
    return Verdict.PROBABLY_BROKEN if share <= 1 - PROBABLE else Verdict.CANNOT_TELL
