"""Two variants against each other, of one run or of two: only what was measured alike is compared."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TypedDict

from orchestrator.evidence.draws import Draws, Printed
from orchestrator.evidence.estimate import Estimate, difference
from orchestrator.evidence.interval import interval_of, p_value
from orchestrator.evidence.items import Items, NoInterval
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.resampling import Pair, Resampling, pair
from orchestrator.evidence.rounds import COUNTED
from orchestrator.evidence.value import DENSE, Interval, Value, Values, Variant
from orchestrator.score.baselines import JUDGED, AgainstBaseline
from orchestrator.score.comparison import Comparison, Contender, TrackDifference, ValueDifference, corrected, mcnemar
from orchestrator.score.overall import Score, overall_estimate, score
from orchestrator.score.protocols import caveat_warnings, survivor_warnings
from orchestrator.tracks import Mode, Place, Track


@dataclass(frozen=True)
class Side:
    """One of the two: a variant within its run."""

    run: Evidence
    variant: Variant

    def value(self, place: Place) -> Value | None:
        return self.run.values.get(place, self.variant)

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(value.place for value in self.run.values.of(self.variant))

    def draws(self, resampling: Resampling) -> Draws:
        """The figures of this variant and of dense, resampled."""
        printed = (
            Printed(one.source, one.metric, one.value)
            for one in self.run.values
            if one.variant in (DENSE, self.variant) and one.source in self.run.outcomes
        )
        return Draws(printed, self.run.outcomes, resampling, self.run.values)


def compare(
    a: Side, b: Side, mode: Mode, resampling: Resampling, tracks: Collection[Track] = tuple(Track)
) -> Comparison:
    """a - b in every value and every overall metric, with a warning for everything that makes it less than fair."""
    return _Comparing(a, b, mode, resampling, tracks).document()


class _Test(TypedDict):
    """What the resampled difference says, or why nothing was resampled."""

    interval: Interval | None
    p_value: float | None
    resampled_p_value: float | None
    alike: bool | None
    reason: str | None


class _Comparing:
    def __init__(self, a: Side, b: Side, mode: Mode, resampling: Resampling, tracks: Collection[Track]) -> None:
        self._a, self._b, self._mode, self._resampling = a, b, mode, resampling
        self._draws_a, self._draws_b = a.draws(resampling), b.draws(resampling)
        places = dict.fromkeys(place for place in (*a.places, *b.places) if place.track in tracks)
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
            tracks=corrected(tracks),
            values=corrected(values),
            imported=tuple(dict.fromkeys((*self._a.run.imported, *self._b.run.imported))),
            warnings=(*self._general_warnings(), *self._warnings, *self._against_baseline(tracks)),
        )

    def _against_baseline(self, tracks: Iterable[TrackDifference]) -> Iterator[str]:
        """Where B is what A has to beat, and A does not."""
        if self._a.run.run != self._b.run.run:
            return
        baselines = self._a.run.baselines.get(self._a.variant, ())
        baseline = next((one for one in baselines if one.variant == self._b.variant), None)
        for one in tracks:
            if baseline is None or one.track not in JUDGED:
                continue
            judged = AgainstBaseline(
                track=one.track,
                variant=self._a.variant,
                baseline=baseline,
                values=one.values,
                difference=one.difference,
                interval=one.interval,
                beats=None if one.interval is None else one.interval.low > 0,
                reason=one.reason,
            )
            if judged.sentence is not None:
                yield f"{self._a.variant.label} {judged.sentence}"

    def _refusal(self, place: Place) -> str | None:
        """Why the place's two values must not be compared."""
        left, right = self._a.value(place), self._b.value(place)
        if left is None or right is None:
            return f"not measured for {self._label(self._a if left is None else self._b)}"
        if left.protocol != right.protocol:
            return f"measured by different protocols: {left.protocol!r} and {right.protocol!r}"
        if left.metric != right.metric:
            return f"different metrics: {left.metric} and {right.metric}"
        digests = [side.run.checkpoints.get(place.model) for side in (self._a, self._b)]
        if digests[0] != digests[1]:
            return f"{place.model} is not the same checkpoint in both runs"
        if self._a.run.device != self._b.run.device and _depends_on_device(place):
            return f"measured on different devices: {self._a.run.device} and {self._b.run.device}"
        for side, value in ((self._a, left), (self._b, right)):
            if value.withheld is not None:
                return f"{self._label(side)}: {value.withheld}"
        try:
            self._pair(left, right)
        except NoInterval as reason:
            return str(reason)
        return None

    def _pair(self, left: Value, right: Value) -> Pair | None:
        """Both over the items that both have an outcome of, where these are not all of both.

        Raises:
            NoInterval: they are not of the same items, or have none in common.
        """
        items = self._items(left, right)
        return None if items is None else pair(left.value, items[0], right.value, items[1])

    def _items(self, left: Value, right: Value) -> tuple[Items, Items] | None:
        """The outcomes of both, where both are readable."""
        a, b = self._draws_a.items(left), self._draws_b.items(right)
        return None if a is None or b is None else (a, b)

    def _value(self, place: Place) -> ValueDifference:
        left, right = self._a.value(place), self._b.value(place)
        known = left or right
        protocol, unit = (known.protocol, known.unit) if known else ("", "")
        if left is None or right is None or place in self._refused:
            return ValueDifference(
                place=place,
                protocol=protocol,
                unit=unit,
                a=left.value if left else None,
                b=right.value if right else None,
                reason=self._refused.get(place),
            )
        one, other = left, right
        items = self._items(one, other)
        exact = mcnemar(*items) if items else None
        paired = self._pair(one, other)
        if paired is None:
            test = _test(
                place.track, lambda: self._spread(self._draws_a, one), lambda: self._spread(self._draws_b, other)
            )
        else:
            over_common = paired
            test = _test(
                place.track,
                lambda: over_common.estimates(self._resampling)[0],
                lambda: over_common.estimates(self._resampling)[1],
            )
        a, b = (one.value, other.value) if paired is None else (paired.value, paired.reference)
        return ValueDifference(
            place=place,
            protocol=protocol,
            unit=unit,
            a=a,
            b=b,
            own_a=None if paired is None else one.value,
            own_b=None if paired is None else other.value,
            difference=a - b,
            items=paired.items if paired is not None else items[0].scored if items else None,
            mcnemar=exact,
            **(test if exact is None else test | {"p_value": exact.p_value}),
        )

    @staticmethod
    def _spread(draws: Draws, value: Value) -> Estimate:
        if value.counted:
            raise NoInterval(COUNTED)
        return draws.of(value)

    def _track(self, track: Track) -> TrackDifference:
        if track.is_relative and self._a.run.run != self._b.run.run:
            return _no_difference(track, "each is relative to the methods of its own run")
        full = [self._score(side, track, None) for side in (self._a, self._b)]
        common = {place for place in full[0].places & full[1].places if place not in self._refused}
        if not common:
            return _no_difference(track, self._why_none(track, full))
        if any(one.places != common for one in full):
            self._warn(
                f"{track.metric}: compared over the values that both have ({len(common)}); the printed scores rest on "
                f"{len(full[0].places)} for {self._label(self._a)}, {len(full[1].places)} for {self._label(self._b)}"
            )
        a, b = (self._score(side, track, common) for side in (self._a, self._b))
        if a.value is None or b.value is None:
            return _no_difference(track, a.reason or b.reason)
        return TrackDifference(
            track=track,
            metric=track.metric,
            a=a.value,
            b=b.value,
            difference=a.value - b.value,
            values=len(common),
            **_test(
                track,
                lambda: overall_estimate(a, self._a.run.values, self._draws_a),
                lambda: overall_estimate(b, self._b.run.values, self._draws_b),
            ),
        )

    def _score(self, side: Side, track: Track, places: set[Place] | None) -> Score:
        """The printed score, or the score of some places alone."""
        expectation = next(one for one in side.run.expectations if one.track is track)
        values = side.run.values
        if places is not None:
            values = Values((value for value in values if value.place in places), values.gaps)
        return score(expectation, side.variant, values, mode=self._mode)

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
        both = {*self._a.places} & {*self._b.places}
        found = [f"{place}: {reason}" for place, reason in self._refused.items() if place in both]
        if left.device != right.device:
            found.append(f"{left.run} was measured on {left.device}, {right.run} on {right.device}")
        measured = [*left.values.of(self._a.variant), *right.values.of(self._b.variant)]
        found += [*caveat_warnings(measured), *survivor_warnings(measured)]
        for place in self._places:
            one, other = left.values.get(place, DENSE), right.values.get(place, DENSE)
            if one is None or other is None or one.source not in left.outcomes or one.value == other.value:
                continue
            values = f"{one.value:g} in {left.run}, {other.value:g} in {right.run}"
            found.append(f"{place}: the dense model has {values}, and each ratio is to its own")
        return tuple(dict.fromkeys(found))


def _test(track: Track, a: Callable[[], Estimate], b: Callable[[], Estimate]) -> _Test:
    try:
        of = difference(a(), b())
        interval, resampled = interval_of(of), p_value(of)
    except NoInterval as reason:
        return _Test(interval=None, p_value=None, resampled_p_value=None, alike=None, reason=str(reason))
    alike = interval.holds(0) if track.is_of_costs else None
    return _Test(interval=interval, p_value=resampled, resampled_p_value=resampled, alike=alike, reason=None)


def _no_difference(track: Track, reason: str | None) -> TrackDifference:
    return TrackDifference(track=track, metric=track.metric, reason=reason)


def _reading_order(*sides: Side) -> Callable[[Place], tuple[int, int]]:
    """Track by track, in the order of the complete scores; what is no part of them comes last."""
    expected = (place for side in sides for one in side.run.expectations for place in one.places)
    numbers = {place: number for number, place in enumerate(dict.fromkeys(expected))}
    return lambda place: (place.track, numbers.get(place, len(numbers)))


def _depends_on_device(place: Place) -> bool:
    return place.track in (Track.TRAINING_CONSUMPTION, Track.HARDWARE_ACCELERATION) or place.part == "memory"
