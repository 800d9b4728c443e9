"""What `orchestrator compare` finds out, as a document, and McNemar's exact test in it."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, NonNegativeInt, PositiveInt

from harness.contract import Frozen
from orchestrator.evidence.counts import sign_test
from orchestrator.evidence.items import Items
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import Interval, Variant
from orchestrator.score.scores import Probability
from orchestrator.store.imported import Imported
from orchestrator.tracks import Mode, Place, Track


class Contender(Frozen):
    run: str
    variant: Variant


class McNemar(Frozen):
    """Items that only one of the two gets right, and the exact two-sided p-value of so uneven a split."""

    only_a: NonNegativeInt
    only_b: NonNegativeInt
    p_value: Probability


class Difference(Frozen):
    """a - b. `p_value` is two-sided: McNemar's exact one where each item is right or wrong, else the resampled one.

    `resampled_p_value` agrees with the interval: below 0.05 iff that leaves out 0. `holm_p_value` is `p_value`,
    corrected by Holm's step-down for all of a document's `values`, or `tracks`: in 5 % of documents at most is any of
    them wrongly below 0.05.

    `alike`: the interval of a difference of costs holds 0, so that it may be chance. `reason` says why there is no
    difference, or none with an interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    a: float | None = None
    b: float | None = None
    difference: float | None = None
    interval: Interval | None = None
    p_value: Probability | None = None
    holm_p_value: Probability | None = None
    resampled_p_value: Probability | None = None
    alike: bool | None = None
    reason: str | None = None


class ValueDifference(Difference):
    """Of one value, over the `items` that both have an outcome of; where these are not all of both, `own_a` and `own_b`
    are each one's figure over its own. `mcnemar` is given where each item is right or wrong."""

    place: Place
    protocol: str
    unit: str
    own_a: float | None = None
    own_b: float | None = None
    mcnemar: McNemar | None = None
    items: PositiveInt | None = None


class TrackDifference(Difference):
    """Of an overall metric, both computed from the `values` that both have."""

    track: Track
    metric: str
    values: NonNegativeInt = 0


class Comparison(Frozen):
    """Two variants, of one run or of two. `warnings` say what a reader must know before believing the differences.
    `imported` are figures of others beside these runs, of which no difference is made.

    Fields are only ever added.
    """

    schema_version: Literal[2] = 2
    a: Contender
    b: Contender
    mode: Mode
    resampling: Resampling
    tracks: tuple[TrackDifference, ...]
    values: tuple[ValueDifference, ...]
    imported: tuple[Imported, ...] = ()
    warnings: tuple[str, ...] = ()


def mcnemar(a: Items, b: Items) -> McNemar | None:
    """Of the items that only one gets right, each is as likely a's as b's, if the two are equally good.

    Items that either excluded do not count. None where an item can be partly right, or is not the other's.
    """
    if a.right is None or b.right is None or a.identity != b.identity:
        return None
    both = a.has_outcome & b.has_outcome
    only_a, only_b = int(np.sum(both & a.right & ~b.right)), int(np.sum(both & b.right & ~a.right))
    return McNemar(only_a=only_a, only_b=only_b, p_value=sign_test(only_a, only_b))


DifferenceT = TypeVar("DifferenceT", bound=Difference)
Key = TypeVar("Key", bound=Hashable)


def corrected(differences: Sequence[DifferenceT]) -> tuple[DifferenceT, ...]:
    """With the `holm_p_value` of each that has a p-value."""
    found = holm({place: one.p_value for place, one in enumerate(differences) if one.p_value is not None})
    return tuple(
        one.model_copy(update={"holm_p_value": found[place]}) if place in found else one
        for place, one in enumerate(differences)
    )


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """The same p-values, corrected for their number.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 (1979).
    """
    greatest, found = 0.0, dict[Key, float]()
    for rank, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        greatest = found[name] = max(greatest, min(1.0, p_value * (len(p_values) - rank)))
    return found
