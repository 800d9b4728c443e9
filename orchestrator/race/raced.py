"""The race of one model, between the stages that it wants and what these found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.contract import Slice
from orchestrator.decide.answer import Fallen, ModelRace, RaceLook
from orchestrator.decide.candidates import Candidate
from orchestrator.decide.collecting import collect
from orchestrator.decide.foreseeing import Field, Moments
from orchestrator.decide.limits import Standing, Verdict, judge, standing
from orchestrator.decide.racing import FIRST_ITEMS, Race, RaceTask
from orchestrator.evidence.items import NoInterval, items_of
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.value import DENSE, Value, Variant
from orchestrator.figures.metrics import Floats
from orchestrator.manifest.deciding import DecideEntry, Quantity
from orchestrator.score.ratio import Incomparable, ratio_at
from orchestrator.tracks import Place, Track

FIRST = Slice(items=FIRST_ITEMS)
"""What dense is scored on before it is known how many items there are."""


def costs_of(evidence: Evidence, model: str, asked: DecideEntry) -> tuple[Candidate, ...]:
    """The candidates of a model without their losses. `evidence` has draws."""
    if evidence.draws is None:
        raise ValueError("evidence without draws has no spread of costs; read it with a resampling")
    found = collect(evidence, evidence.draws, model, asked).candidates
    return tuple(
        Candidate(
            one.variant,
            one.backend,
            {quantity: amount for quantity, amount in one.amounts.items() if quantity is not Quantity.LOSS},
            one.missing,
            one.remarks,
        )
        for one in found
    )


def hopeless(candidates: Sequence[Candidate], asked: DecideEntry) -> set[Variant]:
    """The compressed variants that what was measured of their costs keeps from being recommended, whatever follows."""
    limits: dict[Quantity, float] = {
        quantity: limit for quantity, limit in asked.limits.items() if quantity is not Quantity.LOSS
    }
    lost = set()
    for one, judged in zip(candidates, judge(candidates, limits), strict=True):
        known = {quantity: found for quantity, found in judged.items() if found.verdict is not Verdict.NOT_MEASURED}
        if not one.variant.is_dense and standing(known) is not Standing.ADMITTED:
            lost.add(one.variant)
    return lost


@dataclass
class RacedModel:
    """`places` are those that a loss may be taken over, by the names of their tasks. Without any, or where dense could
    not be scored, there is no `race`."""

    model: str
    costs: Field
    places: Mapping[str, Place]
    race: Race | None
    without: list[Fallen] = field(default_factory=list)
    looks: list[RaceLook] = field(default_factory=list)

    @classmethod
    def begin(cls, evidence: Evidence, model: str, costs: Field) -> "RacedModel":
        """`evidence` has what dense came to on the first slice of each task."""
        places = {
            place.name: place
            for place in _expected(evidence, model)
            if (dense := evidence.values.get(place, DENSE)) is not None and dense.unit == "fraction"
        }
        tasks = [_task(evidence, place) for place in places.values()]
        return cls(model, costs, places, Race(costs, tasks) if tasks else None)

    @property
    def decided(self) -> bool:
        return not self.costs.could_be_chosen or (self.race is not None and self.race.decided)

    def wanted(self) -> Mapping[tuple[Variant, str], Slice | None]:
        """What is to be scored next, by variant and task: a slice, None where that is all items."""
        slice_ = None if self.race is None else self.race.wanted()
        if self.race is None or slice_ is None:
            return {}
        return {
            (variant, task): None if FIRST_ITEMS < count == self.race.items_of(task) else Slice(items=count)
            for task, count in slice_.items.items()
            for variant in slice_.variants
        }

    def look(self, evidence: Evidence) -> RaceLook | None:
        """After what is wanted was scored, or has failed; None where dense has, or all that was left."""
        race = self.race
        if race is None or (slice_ := race.wanted()) is None:
            raise ValueError(f"no slice was wanted of {self.model}")
        if any(evidence.values.get(self.places[task], DENSE) is None for task in slice_.items):
            self.race = None
            return None
        for variant in slice_.variants[1:]:
            if (reason := self._why_not(evidence, variant, tuple(slice_.items))) is not None:
                self.without.append(Fallen(variant=variant, reason=reason))
                race.drop(variant)
        if (slice_ := race.wanted()) is None:
            return None
        moments = {
            task: _moments(evidence, self.places[task], Slice(items=count), race.items_of(task), slice_.variants)
            for task, count in slice_.items.items()
        }
        look = race.look(moments)
        made = RaceLook(
            items=dict(slice_.items),
            scored=slice_.variants,
            fell=tuple(Fallen(variant=one, reason=why) for one, why in look.fell.items()),
            left=look.left,
            likely=look.likely,
        )
        self.looks.append(made)
        return made

    def summary(self) -> ModelRace:
        scored = self.costs.could_be_chosen
        return ModelRace(
            model=self.model,
            decided=self.decided,
            by_costs=tuple(one for one in self.costs.variants if not one.is_dense and one not in scored),
            without=tuple(self.without),
            looks=tuple(self.looks),
            left=() if self.race is None else self.race.left,
        )

    def _why_not(self, evidence: Evidence, variant: Variant, tasks: Sequence[str]) -> str | None:
        for task in tasks:
            try:
                place = self.places[task]
                ratio_at(evidence.values, place, variant, place.part, None)
            except Incomparable as why:
                return f"{task}: {why}"
        return None


def _moments(evidence: Evidence, place: Place, drawn: Slice, of: int, variants: Sequence[Variant]) -> Moments:
    """Over the slice's items that all of them have an outcome of."""
    columns = np.stack([_outcomes(evidence, place, one, drawn.numbers(of)) for one in variants], axis=1)
    has_all = ~np.isnan(columns).any(axis=1)
    return Moments.over(columns[has_all], of - int(np.count_nonzero(~has_all)))


def _expected(evidence: Evidence, model: str) -> tuple[Place, ...]:
    expected = next(one for one in evidence.expectations if one.track is Track.PERFORMANCE)
    return tuple(place for place in expected.places if place.model == model)


def _task(evidence: Evidence, place: Place) -> RaceTask:
    dense = evidence.values.at(place)[DENSE]
    outcomes = evidence.outcomes[dense.source]
    return RaceTask(place.name, _drawn_from(evidence, dense), outcomes.guessing)


def _drawn_from(evidence: Evidence, value: Value) -> int:
    """How many items there are to be scored of the value's task."""
    result = next(one for one in evidence.results.values() if one.provenance.key == value.source).final.result
    return int(getattr(result, "drawn_from", None) or len(evidence.outcomes[value.source].numbers))


def _outcomes(evidence: Evidence, place: Place, variant: Variant, numbers: Sequence[int]) -> Floats:
    """Of the items with these numbers, NaN where one has none.

    Raises:
        NoInterval: the metric is not one of items.
    """
    value = evidence.values.at(place)[variant]
    outcomes = evidence.outcomes[value.source]
    found = dict(zip(outcomes.numbers.tolist(), items_of(outcomes, value.metric).values.tolist(), strict=True))
    missing = [number for number in numbers if number not in found]
    if missing:
        raise NoInterval(f"{place} of {variant.label} lacks item {missing[0]} of the slice")
    return np.array([found[number] for number in numbers])
