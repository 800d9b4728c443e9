"""Two variants against each other, of one run or of two: only what was measured alike is compared."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.measured import Measured
from orchestrator.evidence.observation import DENSE, Observation, Variant
from orchestrator.score import Score, score
from orchestrator.score.uncertainty.estimate import Estimate, difference
from orchestrator.score.uncertainty.figures import Figures
from orchestrator.score.uncertainty.interval import interval_of, p_value
from orchestrator.score.uncertainty.protocols import caveat_warnings
from orchestrator.score.uncertainty.records import (
    Comparison,
    Contender,
    Interval,
    Resampling,
    TrackDifference,
    ValueDifference,
)
from orchestrator.score.uncertainty.significance import mcnemar
from orchestrator.tracks import Mode, Track, place_label


class Place(NamedTuple):
    track: Track
    part: str
    name: str
    model: str

    @property
    def label(self) -> str:
        return f"{place_label(self.track, self.part, self.name)} of {self.model}"


@dataclass(frozen=True)
class Side:
    """One of the two: a variant within its run."""

    run: Measured
    variant: Variant

    def observations(self, *variants: Variant) -> dict[Place, Observation]:
        wanted = variants or (self.variant,)
        return {
            Place(entry.track, entry.part, entry.name, entry.model): entry
            for entry in self.run.observations
            if entry.variant in wanted
        }


def compare(
    a: Side, b: Side, mode: Mode, resampling: Resampling, tracks: Collection[Track] = tuple(Track)
) -> Comparison:
    """a - b in every value and every overall metric, with a warning for everything that makes it less than fair."""
    return _Comparing(a, b, mode, resampling, tracks).document()


class _Comparing:
    def __init__(self, a: Side, b: Side, mode: Mode, resampling: Resampling, tracks: Collection[Track]) -> None:
        self._a, self._b, self._mode, self._resampling = a, b, mode, resampling
        self._figures_a = _figures(a, resampling)
        self._figures_b = _figures(b, resampling)
        self._values_a, self._values_b = a.observations(), b.observations()
        places = {place for place in (*self._values_a, *self._values_b) if place.track in tracks}
        self._places = sorted(places, key=_reading_order(a, b))
        self._refused = {place: reason for place in self._places if (reason := self._refusal(place)) is not None}
        self._warnings: dict[str, None] = {}

    def document(self) -> Comparison:
        values = tuple(self._value(place) for place in self._places)
        tracks = tuple(self._track(track) for track in dict.fromkeys(place.track for place in self._places))
        return Comparison(
            a=Contender(run=self._a.run.run, variant=self._a.variant),
            b=Contender(run=self._b.run.run, variant=self._b.variant),
            mode=self._mode,
            resampling=self._resampling,
            tracks=tracks,
            values=values,
            warnings=(*self._general_warnings(), *self._warnings),
        )

    def _refusal(self, place: Place) -> str | None:
        """Why the place's two values must not be compared."""
        for side, values in ((self._a, self._values_a), (self._b, self._values_b)):
            if place not in values:
                return f"not measured for {self._label(side)}"
        left, right = self._values_a[place], self._values_b[place]
        if left.protocol != right.protocol:
            return f"measured by different protocols: {left.protocol!r} and {right.protocol!r}"
        if left.metric != right.metric:
            return f"different metrics: {left.metric} and {right.metric}"
        digests = [side.run.checkpoints.get(place.model) for side in (self._a, self._b)]
        if digests[0] != digests[1]:
            return f"{place.model} is not the same checkpoint in both runs"
        if self._a.run.device != self._b.run.device and _depends_on_device(place):
            return f"measured on different devices: {self._a.run.device} and {self._b.run.device}"
        items_a, items_b = self._figures_a.items(left), self._figures_b.items(right)
        if items_a is not None and items_b is not None and items_a.identity != items_b.identity:
            return "not measured on the same items"
        return None

    def _value(self, place: Place) -> ValueDifference:
        left, right = self._values_a.get(place), self._values_b.get(place)
        known = left or right
        document = ValueDifference(
            **place._asdict(),
            protocol=known.protocol if known else "",
            unit=known.unit if known else "",
            a=left.value if left else None,
            b=right.value if right else None,
            reason=self._refused.get(place),
        )
        if left is None or right is None or place in self._refused:
            return document
        facts: dict[str, object] = {"difference": left.value - right.value}
        items_a, items_b = self._figures_a.items(left), self._figures_b.items(right)
        if items_a is not None and items_b is not None:
            facts |= {"items": items_a.scored, "mcnemar": mcnemar(items_a, items_b)}
        try:
            facts |= _test(difference(self._figures_a.value(left), self._figures_b.value(right)))
        except NoInterval as reason:
            facts["reason"] = str(reason)
        return document.model_copy(update=facts)

    def _track(self, track: Track) -> TrackDifference:
        document = TrackDifference(track=track, metric=track.metric)
        if track.is_relative and self._a.run.run != self._b.run.run:
            return document.model_copy(update={"reason": "each is relative to the methods of its own run"})
        full = [_score(side, track, None, self._mode) for side in (self._a, self._b)]
        counted = [_counted(one) for one in full]
        common = {place for place in counted[0] & counted[1] if place not in self._refused}
        if not common:
            return document.model_copy(update={"reason": self._why_none(track, full)})
        if any(one != common for one in counted):
            self._warn(
                f"{track.metric}: compared over the values that both have ({len(common)}); the printed scores rest on "
                f"{len(counted[0])} for {self._label(self._a)}, {len(counted[1])} for {self._label(self._b)}"
            )
        a, b = (_score(side, track, common, self._mode) for side in (self._a, self._b))
        if a.value is None or b.value is None:
            return document.model_copy(update={"reason": a.reason or b.reason})
        facts: dict[str, object] = {"a": a.value, "b": b.value, "difference": a.value - b.value, "values": len(common)}
        try:
            facts |= _test(difference(self._figures_a.overall(a), self._figures_b.overall(b)))
        except NoInterval as reason:
            facts["reason"] = str(reason)
        return document.model_copy(update=facts)

    def _why_none(self, track: Track, full: Iterable[Score]) -> str:
        reasons = [reason for place, reason in self._refused.items() if place.track is track]
        reasons += [one.reason for one in full if one.reason]
        return "; ".join(dict.fromkeys(reasons)) or "no value counts for both"

    def _label(self, side: Side) -> str:
        same = self._a.run.run == self._b.run.run
        return side.variant.label if same else f"{side.variant.label} in {side.run.run}"

    def _warn(self, warning: str) -> None:
        self._warnings[warning] = None

    def _general_warnings(self) -> tuple[str, ...]:
        """What is not compared although both have it, and what differs between two runs."""
        left, right = self._a.run, self._b.run
        both = self._values_a.keys() & self._values_b.keys()
        found = [f"{place.label}: {reason}" for place, reason in self._refused.items() if place in both]
        if left.device != right.device:
            found.append(f"{left.run} was measured on {left.device}, {right.run} on {right.device}")
        found += caveat_warnings([*self._values_a.values(), *self._values_b.values()])
        dense_a, dense_b = self._a.observations(DENSE), self._b.observations(DENSE)
        for place in self._places:
            one, other = dense_a.get(place), dense_b.get(place)
            if one is None or other is None or one.source not in left.items or one.value == other.value:
                continue
            values = f"{one.value:g} in {left.run}, {other.value:g} in {right.run}"
            found.append(f"{place.label}: the dense model has {values}, and each ratio is to its own")
        return tuple(dict.fromkeys(found))


def _reading_order(*sides: Side) -> Callable[[Place], tuple[int, int]]:
    """Track by track, in the order of the complete scores; what is no part of them comes last."""
    expected = (Place(one.track, *place) for side in sides for one in side.run.expectations for place in one.places)
    numbers = {place: number for number, place in enumerate(dict.fromkeys(expected))}
    return lambda place: (place.track, numbers.get(place, len(numbers)))


def _figures(side: Side, resampling: Resampling) -> Figures:
    return Figures(
        (entry for entry in side.run.observations if entry.variant in (DENSE, side.variant)), side.run.items, resampling
    )


def _test(of: Estimate) -> Mapping[str, Interval | float]:
    return {"interval": interval_of(of), "p_value": p_value(of)}


def _score(side: Side, track: Track, places: set[Place] | None, mode: Mode) -> Score:
    """The printed score, or the score of some places alone."""
    expectation = next(one for one in side.run.expectations if one.track is track)
    kept = [
        entry
        for entry in side.run.observations
        if places is None or Place(entry.track, entry.part, entry.name, entry.model) in places
    ]
    return score(expectation, side.variant, kept, gaps=side.run.gaps, mode=mode)


def _counted(of: Score) -> set[Place]:
    return {Place(of.track, term.part, term.name, term.model) for term in of.ratios}


def _depends_on_device(place: Place) -> bool:
    return place.track in (Track.TRAINING_CONSUMPTION, Track.HARDWARE_ACCELERATION) or place.part == "memory"
