"""Observations by the place they hold, and the reference that each is compared with."""

import math
from collections.abc import Iterable, Sequence

from orchestrator.evidence.observation import DENSE, Gap, Observation, Variant
from orchestrator.score.errors import BadObservation
from orchestrator.score.ratio import Incomparable, ratio_of
from orchestrator.score.score import Ratio
from orchestrator.tracks import Mode, Place, Track

NOT_MEASURED = "not measured"


class Collection:
    """A run's observations and gaps, indexed.

    Raises:
        BadObservation: two observations hold the same place, contradict each other about what is better, or give one
            model two families.
    """

    def __init__(self, observations: Iterable[Observation], gaps: Sequence[Gap] = ()) -> None:
        self._gaps = tuple(gaps)
        self._by_place: dict[tuple[Track, Place], dict[Variant, Observation]] = {}
        self._families: dict[str, str] = {}
        for observation in observations:
            self._add(observation)

    def _add(self, new: Observation) -> None:
        place = Place(new.part, new.name, new.model)
        where = f"track {new.track.value}, {new.part}/{new.name} of {new.model}"
        held = self._by_place.setdefault((new.track, place), {})
        if new.variant in held:
            raise BadObservation(
                f"{where} is given twice for {new.variant.label}", hint="keep one value for each variant and place"
            )
        if any(other.higher_is_better != new.higher_is_better for other in held.values()):
            raise BadObservation(f"{where}: observations disagree on what is better", hint="mend higher_is_better")
        held[new.variant] = new
        if new.family is not None and self._families.setdefault(new.model, new.family) != new.family:
            raise BadObservation(
                f"{new.model} is in the families {self._families[new.model]!r} and {new.family!r}",
                hint="give each model one family",
            )

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Dense first, then every variant in the order of its first observation, or else of its first gap."""
        seen = [variant for held in self._by_place.values() for variant in held]
        return tuple(dict.fromkeys([DENSE, *seen, *(gap.variant for gap in self._gaps)]))

    def places(self, track: Track, variant: Variant) -> tuple[Place, ...]:
        return tuple(place for (of, place), held in self._by_place.items() if of is track and variant in held)

    def group(self, track: Track, place: Place, mode: Mode) -> str:
        """What the place is averaged in first. A model without a family is a family of its own."""
        if track is Track.GENERALIZATION and mode is Mode.STRICT:
            return self._families.get(place.model, place.model)
        return place.part

    def ratio(self, track: Track, place: Place, variant: Variant, mode: Mode) -> Ratio:
        """The place's term of the score.

        Raises:
            Incomparable: there is no value, no reference, or no ratio of the two.
        """
        held = self._by_place.get((track, place), {})
        observation = held.get(variant)
        if observation is None:
            raise Incomparable(self._reason(track, place, variant))
        if track.is_relative:
            reference = max(other.value for other in self._comparable(track, place, observation))
            name = "the greatest value among the methods"
        else:
            reference = self._dense(track, place, observation)
            name = "the dense value"
        higher_is_better = observation.higher_is_better
        return Ratio(
            group=self.group(track, place, mode),
            part=place.part,
            name=place.name,
            model=place.model,
            reference=reference,
            value=observation.value,
            ratio=ratio_of(observation.value, reference, higher_is_better=higher_is_better, reference_name=name),
        )

    def rivals(self, track: Track, place: Place, variant: Variant) -> tuple[Variant, ...]:
        """The variants, in no order that depends on the input's, that a relative score's greatest value is taken over.

        Raises:
            Incomparable: the variant's own value cannot be compared.
        """
        own = self._by_place[track, place][variant]
        return tuple(
            sorted((other.variant for other in self._comparable(track, place, own)), key=lambda rival: rival.label)
        )

    def _comparable(self, track: Track, place: Place, own: Observation) -> tuple[Observation, ...]:
        """Usable values of the compressed variants at a place, measured by the same protocol as `own`."""
        if own.variant.is_dense:
            raise Incomparable("the dense model is not compressed, so it costs nothing to make")
        if not _is_usable(own.value):
            raise Incomparable(f"the value {own.value:g} is not a measured cost")
        held = self._by_place[track, place].values()
        return tuple(
            other
            for other in held
            if not other.variant.is_dense and other.protocol == own.protocol and _is_usable(other.value)
        )

    def _dense(self, track: Track, place: Place, observation: Observation) -> float:
        dense = self._by_place[track, place].get(DENSE)
        if dense is None:
            raise Incomparable(f"no dense value to compare with: {self._reason(track, place, DENSE)}")
        if dense.protocol != observation.protocol:
            raise Incomparable(
                f"measured by protocol {observation.protocol!r}, but the dense model by {dense.protocol!r}"
            )
        return dense.value

    def _reason(self, track: Track, place: Place, variant: Variant) -> str:
        if track.is_relative and variant.is_dense:
            return "the dense model is not compressed, so it costs nothing to make"
        return next((gap.reason for gap in self._gaps if gap.covers(variant, track, *place)), NOT_MEASURED)


def _is_usable(cost: float) -> bool:
    return math.isfinite(cost) and cost > 0
