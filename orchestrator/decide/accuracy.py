"""The share of dense's accuracy that each variant of a model loses, over the tasks that can show one, item by item.

    loss = 1 - mean over tasks of the variant's accuracy / mean over the same tasks of dense's

Each task of track 1 with right answers counts the same. One that dense does not answer better than by guessing can show
no loss, and would only hide that of the others. Where no task has right answers, the loss is that of perplexity: 1 less
the mean over texts of dense's over the variant's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.decide.candidates import Amount
from orchestrator.evidence.draws import Draws
from orchestrator.evidence.estimate import Estimate
from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import DENSE, Value, Variant
from orchestrator.figures.metrics import Floats
from orchestrator.score.ratio import Incomparable, ratio_at
from orchestrator.tracks import Place, Track

PLUS = 4
"""Items that are imagined to differ from dense besides those that do, half of them each way.

Where none of n items differs, up to 3 / n of all items still may (in 19 of 20 such samples), and resampling alone would
show no doubt at all. Source: Agresti and Min, Biometrics 61 (2005), 515, and the plus-four interval before it.
"""
_NOT_EVALUATED = "dense has no accuracy and no perplexity to lose some of"
_NO_TASK = "dense does none of the tasks surely better than by guessing"
_GUESSING_SHARE = 0.025
"""Of dense's draws that may lie below guessing before a task counts as one that dense cannot do."""


@dataclass(frozen=True)
class Losses:
    """What each variant of a model loses, or why that is not known.

    `tasks` are what it was taken over, `left_out` why other tasks were not. `guessing` is what picking by chance would
    lose. `by_perplexity`: of texts, for want of tasks with right answers. `items` are those of all tasks together.
    """

    tasks: tuple[str, ...]
    left_out: Mapping[str, str]
    guessing: float | None
    by_perplexity: bool
    items: int
    of: Mapping[Variant, Amount] = field(default_factory=dict)
    missing: Mapping[Variant, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Tasks:
    """The places whose tasks count, and why others do not; `dense` are its values at all. Without places, `none` is
    why."""

    places: tuple[Place, ...]
    left_out: Mapping[str, str]
    dense: Mapping[Place, Value]
    by_perplexity: bool

    @property
    def none(self) -> str:
        return _NOT_EVALUATED if self.by_perplexity else _NO_TASK


def losses(evidence: Evidence, draws: Draws, model: str) -> Losses:
    """Of every variant of the run; dense loses nothing, whether it was evaluated or not."""
    tasks = _tasks(evidence, draws, model)
    found: dict[Variant, Amount] = {}
    missing: dict[Variant, str] = {}
    for variant in evidence.variants:
        try:
            found[variant] = _loss(evidence, draws, tasks, variant)
        except Incomparable as reason:
            missing[variant] = str(reason)
    return Losses(
        tasks=tuple(place.name for place in tasks.places),
        left_out=tasks.left_out,
        guessing=_loss_of_guessing(evidence, tasks),
        by_perplexity=tasks.by_perplexity and bool(tasks.places),
        items=sum(tasks.dense[place].items or 0 for place in tasks.places),
        of=found,
        missing=missing,
    )


def _tasks(evidence: Evidence, draws: Draws, model: str) -> _Tasks:
    expected = next(one for one in evidence.expectations if one.track is Track.PERFORMANCE)
    places = [place for place in expected.places if place.model == model]
    dense = {place: value for place in places if (value := evidence.values.get(place, DENSE)) is not None}
    left_out = {
        place.name: f"dense: {evidence.values.why_none(place, DENSE)}"
        for place in places
        if place not in dense and evidence.values.at(place)
    }
    answered = {place: value for place, value in dense.items() if value.unit == "fraction"}
    if not answered:
        texts = tuple(place for place, value in dense.items() if value.unit == "perplexity")
        return _Tasks(texts, left_out, dense, by_perplexity=True)
    why = {place: _why_not(evidence, draws, value) for place, value in answered.items()}
    left_out |= {place.name: reason for place, reason in why.items() if reason is not None}
    kept = tuple(place for place, reason in why.items() if reason is None)
    return _Tasks(kept, left_out, dense, by_perplexity=False)


def _loss_of_guessing(evidence: Evidence, tasks: _Tasks) -> float | None:
    chances = [_guessing(evidence, tasks.dense[place]) for place in tasks.places]
    known = [chance for chance in chances if chance is not None]
    dense = math.fsum(tasks.dense[place].value for place in tasks.places)
    return 1 - math.fsum(known) / dense if known and len(known) == len(chances) and dense else None


def _guessing(evidence: Evidence, dense: Value) -> float | None:
    outcomes = evidence.outcomes.get(dense.source)
    return None if outcomes is None else outcomes.guessing


def _why_not(evidence: Evidence, draws: Draws, dense: Value) -> str | None:
    chance = _guessing(evidence, dense)
    if chance is None:
        return None
    try:
        below = float(np.mean(draws.of(dense).draws <= chance))
    except NoInterval:
        below = float(dense.value <= chance)
    if below <= _GUESSING_SHARE:
        return None
    return f"dense is not surely better than guessing there ({dense.value:.1%}, and by chance {chance:.1%})"


def _loss(evidence: Evidence, draws: Draws, tasks: _Tasks, variant: Variant) -> Amount:
    """Raises Incomparable: it cannot be told, for the reason."""
    if variant.is_dense:
        return Amount(0.0, np.zeros(draws.resampling.resamples), exact=True)
    if not tasks.places:
        raise Incomparable(tasks.none)
    terms = []
    for place in tasks.places:
        try:
            terms.append(ratio_at(evidence.values, place, variant, place.part, None))
        except Incomparable as why:
            raise Incomparable(f"{place.name}: {why}") from why
    pairs, reason = _pairs(evidence, draws, tasks.places, variant)
    if tasks.by_perplexity:
        value = 1 - math.fsum(term.ratio for term in terms) / len(terms)
        sampled = 1 - np.mean([reference.draws / own.draws for own, reference in pairs], axis=0) if pairs else None
        return Amount(value, sampled, reason)
    value = 1 - math.fsum(term.value for term in terms) / math.fsum(term.reference for term in terms)
    if not pairs:
        return Amount(value, None, reason)
    return Amount(value, lost(pairs, [term.items or 1 for term in terms], _imagined(variant, draws.resampling)))


def lost(pairs: Sequence[tuple[Estimate, Estimate]], items: Sequence[int], imagined: Floats) -> Floats:
    """Draws of the loss [resamples] from each task's draws of the variant's accuracy and dense's, over so many items.

    `imagined` are normal numbers [resamples], independent of all else: where imagined items put the variant. Each of
    them is taken for one of the task whose items weigh most. Where dense has nothing right in a draw, nothing is lost.
    """
    share = max(1 / (len(items) * count) for count in items)
    own = np.mean([one.draws for one, _ in pairs], axis=0) + math.sqrt(PLUS) * share * imagined
    reference = np.mean([other.draws for _, other in pairs], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(reference > 0, 1 - own / reference, 0.0)


def _imagined(variant: Variant, resampling: Resampling) -> Floats:
    generator = np.random.default_rng(np.random.SeedSequence([resampling.seed, *variant.label.encode()]))
    return generator.standard_normal(resampling.resamples)


def _pairs(
    evidence: Evidence, draws: Draws, places: Sequence[Place], variant: Variant
) -> tuple[list[tuple[Estimate, Estimate]], str | None]:
    """The variant's figures and dense's, or why they cannot be drawn."""
    try:
        return [_pair(evidence, draws, place, variant) for place in places], None
    except NoInterval as none:
        return [], str(none)


def _pair(evidence: Evidence, draws: Draws, place: Place, variant: Variant) -> tuple[Estimate, Estimate]:
    """Raises NoInterval: one of the two cannot be resampled."""
    own, dense = (evidence.values.at(place)[one] for one in (variant, DENSE))
    pair = draws.pair(own, dense)
    return (draws.of(own), draws.of(dense)) if pair is None else pair.estimates(draws.resampling)
