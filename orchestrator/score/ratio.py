"""One value against its reference. What cannot be compared is said, never replaced by a number."""

import math

from pydantic import ConfigDict, PositiveInt

from harness.contract import Frozen
from orchestrator.evidence.draws import Draws, NoItems
from orchestrator.evidence.estimate import Estimate
from orchestrator.evidence.interval import if_any, interval_of
from orchestrator.evidence.rounds import COUNTED, Floor, relative
from orchestrator.evidence.value import DENSE, NOT_COMPRESSED, Interval, Value, Values, Variant
from orchestrator.tracks import Place

GREATEST_RATIO = 1e12
"""Beyond it one of the two values cannot be a measurement, and its square would drown every other term."""


class Incomparable(Exception):
    """The two values give no ratio; the message says why, in a clause that a report can print."""


class Ratio(Frozen):
    """One term of a score: the `value` at `place`, of the score's variant, against `reference`.

    Both are over `items`, where they are made of items: those that both have an outcome of. Where these are not all,
    the variant's own figure over its own items is another one, which stands among the document's values.

    `group` is what it is averaged in first: its part, or in strict mode its model's family. One that is not `common`
    is missing for another variant of the column, and enters the score over the variant's own values alone. An interval
    that is None has its reason in `interval_reason`, where one was sought. `floor` is where dense against itself would
    lie, for costs that were measured in rounds, and in a relative track a method's ratio, were all equally costly;
    `like_dense`: the ratio lies within it, or its interval holds 1. The reference itself is like nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    place: Place
    group: str
    value: float
    reference: float
    ratio: float
    items: PositiveInt | None = None
    common: bool = True
    interval: Interval | None = None
    interval_reason: str | None = None
    floor: Interval | None = None
    like_dense: bool | None = None


def ratio_at(values: Values, place: Place, variant: Variant, group: str, draws: Draws | None) -> Ratio:
    """The place's term of the variant's score.

    Raises:
        Incomparable: there is no value, no reference, or no ratio of the two.
    """
    own = values.get(place, variant)
    if own is None:
        raise Incomparable(values.why_none(place, variant))
    value = own.value
    if place.track.is_relative:
        reference, name = max(rival.value for rival in _comparable(values, own)), "the greatest value among the methods"
    else:
        value, reference = _against_dense(values, own)
        name = "the dense value"
    ratio = ratio_of(value, reference, higher_is_better=own.higher_is_better, reference_name=name)
    interval, reason, found = None, None, None
    if draws is not None:
        interval, reason = if_any(lambda: interval_of(ratio_estimate(values, place, variant, draws)))
        interval, reason = (None, COUNTED) if own.counted else (interval, reason)
        found = floor_at(values, own, draws)
    floor = None if found is None else found.interval
    is_reference = variant.is_dense or (place.track.is_relative and value == reference)
    return Ratio(
        place=place,
        group=group,
        value=value,
        reference=reference,
        ratio=ratio,
        items=own.items if own.paired is None else own.paired.items,
        interval=interval,
        interval_reason=reason,
        floor=floor,
        like_dense=None if is_reference else is_like(1.0, ratio, interval, floor),
    )


def floor_at(values: Values, own: Value, draws: Draws) -> Floor | None:
    """What chance alone makes of the value's ratio; None where nothing shows it."""
    if own.place.track.is_relative:
        return draws.rounds.floor_among(own, _comparable(values, own))
    return draws.rounds.floor(own)


def is_like(reference: float, figure: float, interval: Interval | None, floor: Interval | None) -> bool | None:
    """Whether a figure cannot be told apart from the reference's; None where nothing shows what chance does."""
    if floor is None:
        return None
    return floor.holds(figure) or (interval is not None and interval.holds(reference))


def ratio_estimate(values: Values, place: Place, variant: Variant, draws: Draws) -> Estimate:
    """The term of a score, resampled.

    Raises:
        NoInterval: the value or the dense value cannot be resampled.
    """
    own, dense = values.get(place, variant), values.get(place, DENSE)
    if own is not None and place.track.is_relative:
        return relative([draws.of(rival) for rival in _comparable(values, own)], draws.of(own))
    if own is None or dense is None:
        raise NoItems
    return draws.ratio(own, dense)


def rivals(values: Values, place: Place, variant: Variant) -> tuple[Variant, ...]:
    """The variants, in no order that depends on the input's, that a relative score's greatest value is taken over.

    Raises:
        Incomparable: the variant's own value cannot be compared.
    """
    own = values.at(place)[variant]
    return tuple(sorted((rival.variant for rival in _comparable(values, own)), key=lambda rival: rival.label))


def _comparable(values: Values, own: Value) -> tuple[Value, ...]:
    """Usable values of the compressed variants at a place, measured by the same protocol as `own`."""
    if not own.variant.is_scored_in(own.place.track):
        raise Incomparable(NOT_COMPRESSED)
    if not _is_usable(own.value):
        raise Incomparable(f"the value {own.value:g} is not a measured cost")
    return tuple(
        other
        for other in values.at(own.place).values()
        if not other.variant.is_dense and other.protocol == own.protocol and _is_usable(other.value)
    )


def _is_usable(cost: float) -> bool:
    return math.isfinite(cost) and cost > 0


def _against_dense(values: Values, own: Value) -> tuple[float, float]:
    """The value and the dense one, both over the items that both have.

    Raises:
        Incomparable: there is no dense value, or one of the two stands for something else.
    """
    dense = values.get(own.place, DENSE)
    if dense is None:
        raise Incomparable(f"no dense value to compare with: {values.why_none(own.place, DENSE)}")
    if dense.whole_protocol != own.whole_protocol:
        raise Incomparable(f"measured by protocol {own.protocol!r}, but the dense model by {dense.protocol!r}")
    if own.withheld is not None:
        raise Incomparable(own.withheld)
    if dense.withheld is not None:
        raise Incomparable(f"the dense value: {dense.withheld}")
    if own.unpaired is not None:
        raise Incomparable(own.unpaired)
    return (own.value, dense.value) if own.paired is None else (own.paired.value, own.paired.reference)


def ratio_of(value: float, reference: float, *, higher_is_better: bool, reference_name: str) -> float:
    """value / reference where higher is better, reference / value where lower is; at least 0.

    An infinite value that should be low (the perplexity of a broken model) gives 0, the limit of ever worse values:
    leaving it out would reward the worst.

    Raises:
        Incomparable: a value is negative, not a number, infinite otherwise, or a divisor of 0.
    """
    _check(reference, reference_name)
    if math.isinf(reference):
        raise Incomparable(f"{reference_name} is infinite")
    _check(value, "the value")
    if higher_is_better:
        if math.isinf(value):
            raise Incomparable("the value is infinite")
        dividend, divisor, divisor_name = value, reference, reference_name
    else:
        dividend, divisor, divisor_name = reference, value, "the value"
        if reference == 0:
            raise Incomparable(f"{reference_name} is 0, and lower is better")
    if divisor == 0:
        raise Incomparable(f"{divisor_name} is 0, so that there is no ratio to it")
    ratio = dividend / divisor
    if ratio > GREATEST_RATIO:
        raise Incomparable(f"the ratio of {dividend:g} to {divisor:g} is beyond {GREATEST_RATIO:g}")
    return ratio


def _check(value: float, what: str) -> None:
    if math.isnan(value):
        raise Incomparable(f"{what} is not a number")
    if value < 0:
        raise Incomparable(f"{what} is negative ({value:g})")
