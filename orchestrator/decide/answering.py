"""Answers as documents: each candidate of a run with all that is known of it, and what is not."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from harness.contract import unknown
from orchestrator.decide.accuracy import Losses
from orchestrator.decide.answer import (
    AmountEntry,
    Answer,
    CandidateEntry,
    Choice,
    Decision,
    ForNothing,
    LimitEntry,
    LossMeasure,
    OpenPoint,
)
from orchestrator.decide.candidates import Amount, Candidate
from orchestrator.decide.collecting import collect, models_of
from orchestrator.decide.deciding import LIMIT_NAMES, Picture, decide
from orchestrator.decide.limits import DOUBT, Judged, Standing, Verdict, keeps
from orchestrator.decide.pareto import pareto_probabilities
from orchestrator.decide.ranking import Utility, best_probabilities, groups
from orchestrator.errors import BadManifest
from orchestrator.evidence.draws import Draws
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.value import Interval, Variant
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest.deciding import DecideEntry, Quantity

_ENDLESS = 10**9
"""Items that nobody will score: a loss so near to its limit is left without a number."""


def with_full_names(asked: DecideEntry, catalog: ImageCatalog) -> DecideEntry:
    """The same, with the backend's name as runs have it."""
    return asked if asked.backend is None else asked.model_copy(update={"backend": catalog.full_name(asked.backend)})


def decide_run(evidence: Evidence, asked: DecideEntry, models: Sequence[str] = ()) -> Decision:
    """An answer for each model, or for those named. `evidence` has draws, and `asked.backend` is a full name.

    Raises:
        BadManifest: the run has no such model, backend or batch size.
    """
    if evidence.draws is None:
        raise ValueError("evidence without draws cannot be decided on; read it with a resampling")
    known = models_of(evidence)
    for name in models:
        if name not in known:
            raise BadManifest(unknown("model of the run", name, known), hint=f"the run has: {', '.join(known)}")
    return Decision(
        run=evidence.run,
        device=evidence.device,
        asked=asked,
        resampling=evidence.draws.resampling,
        answers=tuple(_answer(evidence, evidence.draws, model, asked) for model in models or known),
    )


def _answer(evidence: Evidence, draws: Draws, model: str, asked: DecideEntry) -> Answer:
    choices = collect(evidence, draws, model, asked)
    picture = decide(choices.candidates, asked.limits, asked.prefer, draws.resampling.resamples)
    entries = _entries(picture, choices.losses.items)
    needed = {one.choice.variant: one.items_needed for one in entries}
    recommended = picture.recommended
    chosen = None if recommended is None else choices.candidates[recommended]
    return Answer(
        model=model,
        recommended=None if chosen is None else _choice(chosen),
        alike=tuple(_choice(choices.candidates[index]) for index in picture.alike),
        why_none=picture.why_none,
        loss=_measure(choices.losses),
        weights=dict(picture.weights),
        batch=choices.batch,
        candidates=entries,
        for_nothing=_for_nothing(evidence, choices.losses, chosen),
        open=tuple(_open_points(picture, asked, choices.losses, needed)),
    )


def _choice(candidate: Candidate) -> Choice:
    return Choice(variant=candidate.variant, backend=candidate.backend)


def _measure(found: Losses) -> LossMeasure:
    return LossMeasure(
        tasks=found.tasks,
        items=found.items,
        left_out=dict(found.left_out),
        guessing=found.guessing,
        by_perplexity=found.by_perplexity,
    )


def _entries(picture: Picture, items: int) -> tuple[CandidateEntry, ...]:
    candidates, utilities = picture.candidates, picture.utilities
    in_play = [index for index, one in enumerate(picture.standings) if one is not Standing.EXCLUDED]
    on_front = dict(
        zip(in_play, pareto_probabilities([candidates[index] for index in in_play], picture.resamples), strict=True)
    )
    best = dict(zip(utilities, best_probabilities(list(utilities.values())), strict=True))
    group = dict(zip(utilities, groups(list(utilities.values())), strict=True))
    order = sorted(range(len(candidates)), key=lambda index: _place(picture, index))
    variants = len({one.variant for one in candidates if not one.variant.is_dense})
    return tuple(
        CandidateEntry(
            choice=_choice(candidates[index]),
            standing=picture.standings[index],
            amounts=tuple(
                _amount_entry(quantity, candidates[index].amounts[quantity])
                for quantity in Quantity
                if quantity in candidates[index].amounts
            ),
            missing=dict(candidates[index].missing),
            limits=tuple(_limit_entry(one) for one in picture.limits[index].values()),
            within=_within(candidates[index], picture.limits[index], picture.resamples),
            pareto=on_front.get(index),
            utility=utilities[index].value if index in utilities else None,
            utility_interval=_utility_interval(utilities.get(index)),
            best=best.get(index),
            group=group.get(index),
            items_needed=_items_needed(candidates[index], picture.limits[index].get(Quantity.LOSS), items, variants),
            remarks=candidates[index].remarks,
        )
        for index in order
    )


def _place(picture: Picture, index: int) -> tuple[int, float]:
    if picture.standings[index] is Standing.EXCLUDED:
        return 2, 0.0
    return (0, -picture.utilities[index].value) if index in picture.utilities else (1, 0.0)


def _amount_entry(quantity: Quantity, amount: Amount) -> AmountEntry:
    return AmountEntry(
        quantity=quantity,
        value=amount.value,
        unit=quantity.unit,
        interval=amount.interval,
        interval_reason=amount.reason,
        exact=amount.exact,
    )


def _limit_entry(one: Judged) -> LimitEntry:
    return LimitEntry(
        quantity=one.quantity,
        verdict=one.verdict,
        probability=one.probability,
        by_figure_alone=one.by_figure_alone,
        reason=one.reason,
    )


def _within(candidate: Candidate, judged: Mapping[Quantity, Judged], resamples: int) -> float | None:
    """The share of the draws in which all limits are kept at once."""
    together = np.ones(resamples, dtype=bool)
    for quantity, one in judged.items():
        if one.probability is None:
            return None
        together &= keeps(quantity, candidate.amounts[quantity].sampled(resamples), one.limit)
    return float(together.mean())


def _utility_interval(found: Utility | None) -> Interval | None:
    return None if found is None or not found.sure else Amount(found.value, found.draws).interval


def _items_needed(candidate: Candidate, judged: Judged | None, items: int, variants: int) -> int | None:
    """With how many items the loss as it was found would be certainly within its limit, or beyond: its spread falls
    with their root. None where the loss is settled or was found right at the limit."""
    amount = candidate.amounts.get(Quantity.LOSS)
    if judged is None or amount is None or amount.draws is None or judged.verdict in (Verdict.KEPT, Verdict.BROKEN):
        return None
    apart = abs(judged.limit - amount.value)
    needed = NormalDist().inv_cdf(1 - DOUBT / variants) * float(np.std(amount.draws))
    times = (needed / apart) ** 2 if apart else math.inf
    return math.ceil(items * times) if 1 < times < _ENDLESS / max(1, items) else None


def _for_nothing(evidence: Evidence, found: Losses, chosen: Candidate | None) -> tuple[ForNothing, ...]:
    if chosen is None or chosen.variant.is_dense:
        return ()
    return tuple(
        _against(found, chosen.variant, baseline.variant) for baseline in evidence.baselines.get(chosen.variant, ())
    )


def _against(found: Losses, variant: Variant, baseline: Variant) -> ForNothing:
    own, other = found.of.get(variant), found.of.get(baseline)
    if own is None or other is None:
        return ForNothing(variant=baseline, as_good=None, reason=found.missing.get(baseline, "not measured"))
    if own.draws is None or other.draws is None:
        return ForNothing(variant=baseline, as_good=None, reason=other.reason or own.reason)
    draws = other.draws - own.draws
    apart = Amount(other.value - own.value, draws)
    return ForNothing(
        variant=baseline,
        as_good=float(np.mean(draws <= 0)) > DOUBT,
        difference=apart.value,
        interval=apart.interval,
    )


def _open_points(
    picture: Picture, asked: DecideEntry, found: Losses, needed: Mapping[Variant, int | None]
) -> list[OpenPoint]:
    """What could change the answer: what is not excluded and could be better than the recommended one."""
    points = [
        OpenPoint(choice=None, reason=f"{quantity.value} has a weight and was measured of nothing that was compressed")
        for quantity, weight in asked.prefer.items()
        if weight > 0 and quantity not in picture.weights
    ]
    points += [
        OpenPoint(choice=None, reason=f"{task} is not in the loss: {why}") for task, why in found.left_out.items()
    ]
    best = None if picture.recommended is None else picture.utilities[picture.recommended]
    for index, candidate in enumerate(picture.candidates):
        if index == picture.recommended or picture.standings[index] is Standing.EXCLUDED:
            continue
        reasons = [
            f"{quantity.value}: {why}"
            for quantity, why in candidate.missing.items()
            if quantity in picture.weights or quantity in asked.limits
        ]
        own = picture.utilities.get(index)
        could_be = best is None or own is None or float(np.mean(own.draws > best.draws)) > DOUBT
        if picture.standings[index] is Standing.OPEN and could_be:
            reasons += [
                _doubtful(one, needed.get(candidate.variant), found.items)
                for one in picture.limits[index].values()
                if _is_doubtful(one)
            ]
        points += [OpenPoint(choice=_choice(candidate), reason=reason) for reason in dict.fromkeys(reasons)]
    return points


def _is_doubtful(one: Judged) -> bool:
    return one.verdict in (Verdict.PROBABLY_KEPT, Verdict.CANNOT_TELL, Verdict.PROBABLY_BROKEN)


def _doubtful(one: Judged, needed: int | None, items: int) -> str:
    if one.probability is None:
        return f"whether it keeps the limit on {LIMIT_NAMES[one.quantity]} rests on one figure: {one.reason}"
    told = f"it keeps the limit on {LIMIT_NAMES[one.quantity]} with a probability of {100 * one.probability:.0f} %"
    if one.quantity is not Quantity.LOSS or needed is None:
        return told
    return f"{told}; about {needed} items would tell, of which {items} were scored"
