"""One record of a value, and the index that finds it by its place and variant; where there is none, why."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Self

from pydantic import ConfigDict, PositiveInt

from harness.contract import Frozen
from orchestrator.errors import OrchestratorError
from orchestrator.host.load import MachineLoad
from orchestrator.stages import Subject, Turn
from orchestrator.tracks import Place, Track

NOT_MEASURED = "not measured"
NOT_COMPRESSED = "the dense model is not compressed, so it costs nothing to make"


class Variant(Frozen):
    """One way to have a model: dense (no method), or compressed by a method at a setting."""

    method: str | None = None
    setting: str | None = None

    def __eq__(self, other: object) -> bool:
        """As `Place` does it."""
        return self is other or (type(other) is Variant and self.__dict__ == other.__dict__)

    def __hash__(self) -> int:
        return hash((self.method, self.setting))

    @classmethod
    def of(cls, subject: Subject) -> Self:
        return cls(method=subject.method, setting=subject.setting)

    @property
    def is_dense(self) -> bool:
        return self.method is None

    @property
    def label(self) -> str:
        return " ".join(part for part in (self.method or "dense", self.setting) if part)

    def is_scored_in(self, track: Track) -> bool:
        """False where there is nothing to measure, so that nothing is missing: making the dense model is no cost."""
        return not (track.is_relative and self.is_dense)


DENSE = Variant()


class Interval(Frozen):
    """Where a figure lies, with the confidence that `Resampling` names. Both ends belong to it."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


LOST_SHARE_LIMIT = 0.01
"""Of a task's items: a figure over fewer survivors than the rest is no figure of the task."""


class Paired(Frozen):
    """A value and the dense one, both over the `items` that both have an outcome of."""

    value: float
    reference: float
    items: PositiveInt


class Measurement(Frozen):
    """One of those that a value is the mean of, by a process of its own. `source` is the key of its stage.

    `load` is the machine's meanwhile; `repeated` says that it was disturbed once before and measured again.
    """

    turn: Turn = Turn()
    value: float
    source: str
    begun: datetime
    ended: datetime
    load: MachineLoad | None = None
    repeated: bool = False


class Value(Frozen):
    """One measured value, made once from stored results (or a printed table) and handed on as it is.

    `protocol` says how it was measured; values of different protocols are never compared. Over a slice of the items,
    `slice_of` is the protocol of all of them, to which it belongs. `metric` is which of the result's metrics it is,
    where that has several, and `items` how many items were scored. `excluded` counts those that
    were not, by reason. A value over other items than the dense one's has both over the common ones in `paired`, or in
    `unpaired` the reason why there are none: then it must not be set against the dense value. An interval that is None
    has its reason in `interval_reason`, where one was sought. `measurements` are those of a cost, of which the value is
    the geometric mean; one that is `counted`, such as a size, comes out the same each time. `noise_floor` is the
    relative difference that dense shows against itself, or, with one measurement, that repeats within it show. `caveat`
    says why a value is not that of the variant's own weights, where it is not; `notes` are the worker's. `source` says
    where the value comes from: a stage key, a table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    place: Place
    variant: Variant
    value: float
    unit: str = ""
    higher_is_better: bool
    protocol: str = ""
    slice_of: str | None = None
    metric: str = ""
    items: PositiveInt | None = None
    excluded: dict[str, PositiveInt] = {}
    paired: Paired | None = None
    unpaired: str | None = None
    interval: Interval | None = None
    interval_reason: str | None = None
    measurements: tuple[Measurement, ...] = ()
    counted: bool = False
    noise_floor: float | None = None
    caveat: str | None = None
    notes: tuple[str, ...] = ()
    source: str = ""

    @property
    def whole_protocol(self) -> str:
        """That of all items, of which these may be a slice."""
        return self.slice_of or self.protocol

    @property
    def lost(self) -> str | None:
        """Which items have no outcome, in a clause; None where each has one."""
        if not self.excluded:
            return None
        count, asked = sum(self.excluded.values()), sum(self.excluded.values(), self.items or 0)
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(self.excluded.items()))
        return f"{count} of {asked} items have no outcome ({reasons})"

    @property
    def withheld(self) -> str | None:
        """Why the value is in no score and no comparison; None where nothing is held against it."""
        count = sum(self.excluded.values())
        if count <= LOST_SHARE_LIMIT * (count + (self.items or 0)):
            return None
        return f"{self.lost}: more than {LOST_SHARE_LIMIT:.0%}, so what is left does not stand for the task"


class Gap(Frozen):
    """Why values of a variant are missing. A field that is None stands for all: a failed `compress` leaves one gap."""

    variant: Variant
    reason: str
    track: Track | None = None
    part: str | None = None
    name: str | None = None
    model: str | None = None

    def covers(self, place: Place, variant: Variant) -> bool:
        return self.variant == variant and all(
            mine is None or mine == theirs
            for mine, theirs in (
                (self.track, place.track),
                (self.part, place.part),
                (self.name, place.name),
                (self.model, place.model),
            )
        )


class BadValue(OrchestratorError):
    """Two values claim the same place, or contradict each other about what is better.

    A value that is bad by itself is excluded from its score instead, with the reason.
    """


def _where(place: Place) -> str:
    return f"track {place.track.value}, {place.part}/{place.name} of {place.model}"


class Values:
    """Values by place and variant, in their order, and the gaps between them.

    Raises:
        BadValue: two values hold the same place, or contradict each other about what is better.
    """

    def __init__(self, values: Iterable[Value] = (), gaps: Sequence[Gap] = ()) -> None:
        self.gaps = tuple(gaps)
        self._values: list[Value] = []
        self._by_place: dict[Place, dict[Variant, Value]] = {}
        self._by_variant: dict[Variant, list[Value]] = {}
        self._by_model: dict[tuple[Variant, str], list[Value]] = {}
        self._gaps: dict[tuple[Variant, str | None], list[tuple[int, Gap]]] = {}
        for number, gap in enumerate(self.gaps):
            self._gaps.setdefault((gap.variant, gap.model), []).append((number, gap))
        for value in values:
            self._add(value)

    def _add(self, new: Value) -> None:
        place = new.place
        held = self._by_place.setdefault(place, {})
        if new.variant in held:
            raise BadValue(
                f"{_where(place)} is given twice for {new.variant.label}",
                hint="keep one value for each variant and place",
            )
        if any(other.higher_is_better != new.higher_is_better for other in held.values()):
            raise BadValue(f"{_where(place)}: values disagree on what is better", hint="mend higher_is_better")
        held[new.variant] = new
        self._by_variant.setdefault(new.variant, []).append(new)
        self._by_model.setdefault((new.variant, place.model), []).append(new)
        self._values.append(new)

    def __iter__(self) -> Iterator[Value]:
        return iter(self._values)

    def at(self, place: Place) -> Mapping[Variant, Value]:
        """The values of all variants at a place; none where nothing was measured."""
        return self._by_place.get(place, {})

    def get(self, place: Place, variant: Variant) -> Value | None:
        return self.at(place).get(variant)

    def of(self, variant: Variant, model: str | None = None) -> Sequence[Value]:
        """Those of a variant: of all models, or of one."""
        return self._by_variant.get(variant, ()) if model is None else self._by_model.get((variant, model), ())

    def why_none(self, place: Place, variant: Variant) -> str:
        """Why there is no value, in a clause that a report can print."""
        if not variant.is_scored_in(place.track):
            return NOT_COMPRESSED
        about = (self._gaps.get((variant, model), ()) for model in (place.model, None))
        first = (next((found for found in gaps if found[1].covers(place, variant)), None) for gaps in about)
        found = min((one for one in first if one is not None), default=None, key=lambda one: one[0])
        return NOT_MEASURED if found is None else found[1].reason

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Dense first, then every variant in the order of its first value, or else of its first gap."""
        seen = [variant for held in self._by_place.values() for variant in held]
        return tuple(dict.fromkeys([DENSE, *seen, *(gap.variant for gap in self.gaps)]))
