"""The outcomes behind one figure, as arrays to draw from."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from orchestrator.figures.metrics import OVER_GROUPS, Floats
from orchestrator.figures.outcomes import Outcomes


class NoInterval(Exception):
    """There are no outcomes to resample, so no interval; the message says why, in a clause that a report can print."""


@dataclass(frozen=True)
class Items:
    """One metric's outcome of each item, sorted by group, then by number.

    `identity` is equal for the same items in the same groups, `names` [items] for the same item in the same group, and
    empty where that is not known. `groups` holds the number of items of each group, in order. `values` [items] is NaN
    where an item was excluded; `weights` [items] are all 1 but for pages of text, where each word counts the same. With
    `exponential` the figure is the exponential of the mean.
    """

    identity: str
    groups: tuple[int, ...]
    values: Floats
    weights: Floats
    exponential: bool
    names: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def scored(self) -> int:
        return int(np.count_nonzero(self.has_outcome))

    @cached_property
    def has_outcome(self) -> NDArray[np.bool_]:
        """Which items were not excluded [items]."""
        return ~np.isnan(self.values)

    @cached_property
    def filled(self) -> Floats:
        """The values with 0 for an excluded item [items]."""
        return np.nan_to_num(self.values)

    @cached_property
    def counting(self) -> Floats:
        """The weights with 0 for an excluded item [items]."""
        return np.where(self.has_outcome, self.weights, 0.0)

    @property
    def right(self) -> NDArray[np.bool_] | None:
        """Which items are right [items], none that was excluded; None where an item can be partly right."""
        whole = np.isin(self.values[self.has_outcome], (0.0, 1.0)).all()
        return self.values == 1.0 if whole and not self.exponential else None


def of_a_slice(items: Items, smaller: Items) -> Items | None:
    """The outcomes of the items of a `smaller` slice among `items`; None where these do not hold all of them."""
    places = {name: place for place, name in enumerate(items.names.tolist())}
    found = [places.get(name) for name in smaller.names.tolist()]
    if not found or None in found:
        return None
    return replace(smaller, values=items.values[found], weights=items.weights[found])  # type: ignore[index]


def over_common(one: Items, other: Items) -> tuple[Items, Items]:
    """Two figures' outcomes of the same items, without those that either of them excluded."""
    both = one.has_outcome & other.has_outcome
    left, right = (np.where(both, each.values, np.nan) for each in (one, other))
    return replace(one, values=left), replace(other, values=right)


def items_of(outcomes: Outcomes, metric: str) -> Items:
    """The outcomes that `metric` is computed from.

    Raises:
        NoInterval: it is made of no items, or of some of those that were scored alone.
    """
    name = metric.removesuffix(OVER_GROUPS)
    values = outcomes.values.get(name)
    if values is None:
        raise NoInterval(f"the outcomes of the items do not give the metric {metric} item by item")
    found = Items(
        identity=outcomes.identity,
        groups=outcomes.groups,
        values=values,
        weights=outcomes.weights.get(name, np.ones_like(values)),
        exponential=outcomes.exponential,
        names=outcomes.names,
    )
    if found.scored != outcomes.scored:
        raise NoInterval(f"{found.scored} of {outcomes.scored} items have the metric {metric}")
    return found
