"""The figures of a run as draws: those of items resampled, those of costs from their rounds; ratios come of these."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.evidence.estimate import Estimate, ratio
from orchestrator.evidence.interval import if_any, value_interval
from orchestrator.evidence.items import Items, NoInterval, items_of
from orchestrator.evidence.resampling import Pair, Resampling, columns_of, pair, resample
from orchestrator.evidence.rounds import OneRound, Rounds
from orchestrator.evidence.value import Interval, Value, Values
from orchestrator.figures.outcomes import Outcomes

_Source = tuple[str, str]


class NoItems(NoInterval):
    """The figure is not one of items: a cost, a size, a speed."""

    def __init__(self) -> None:
        super().__init__("not made of items, so there is nothing to resample")


@dataclass(frozen=True)
class Printed:
    """A figure that is made of items: `metric` of the stored result `source`."""

    source: str
    metric: str
    value: float


class Draws:
    """The figures of stored results, resampled at once, so that those of the same items move together."""

    def __init__(
        self,
        printed: Iterable[Printed],
        outcomes: Mapping[str, Outcomes],
        resampling: Resampling,
        values: Values | None = None,
    ) -> None:
        """`values` are all of the run; of those that were measured in rounds the spread is taken from here."""
        self.resampling = resampling
        self.rounds = Rounds(values or Values(), resampling.resamples, resampling.seed)
        self._reasons: dict[_Source, NoInterval] = {}
        self._items: dict[_Source, Items] = {}
        found: dict[_Source, tuple[float, Items]] = {}
        for one in printed:
            source = (one.source, one.metric)
            if source in found or source in self._reasons:
                continue
            try:
                self._items[source] = items_of(outcomes[one.source], one.metric)
                found[source] = (one.value, self._items[source])
            except NoInterval as reason:
                self._reasons[source] = reason
        columns = columns_of(found, self._reasons)
        self._estimates = dict(zip(columns, resample(tuple(columns.values()), resampling), strict=True))

    def items(self, value: Value) -> Items | None:
        """The outcomes behind a value, where they are readable."""
        return self._items.get((value.source, value.metric))

    def estimate(self, source: str, metric: str) -> Estimate:
        """The figure itself.

        Raises:
            NoInterval: it cannot be resampled.
        """
        if (source, metric) in self._reasons:
            raise self._reasons[source, metric]
        if (source, metric) not in self._estimates:
            raise NoItems
        return self._estimates[source, metric]

    def of(self, value: Value) -> Estimate:
        """The figure itself.

        Raises:
            NoInterval: it has no spread that is known.
        """
        if value.measurements:
            return self.rounds.estimate(value)
        return self.estimate(value.source, value.metric)

    def interval(self, source: str, metric: str) -> tuple[Interval | None, str | None]:
        """A figure's own interval, or the reason why there is none."""
        return if_any(lambda: value_interval(self.estimate(source, metric)))

    def pair(self, own: Value, other: Value) -> Pair | None:
        """See the function; None also where one of the two is not made of items that are known."""
        items, others = self.items(own), self.items(other)
        return None if items is None or others is None else pair(own.value, items, other.value, others)

    def ratio(self, own: Value, dense: Value) -> Estimate:
        """A value against the dense one, of the same items or rounds in each draw; above 1 where it is the better one.

        Raises:
            NoInterval: one of the two cannot be resampled.
        """
        if (found := self.pair(own, dense)) is not None:
            value, reference = found.estimates(self.resampling)
            return ratio(value, reference) if own.higher_is_better else ratio(reference, value)
        value = self.of(own)
        try:
            reference = self.of(dense)
        except (NoItems, OneRound):
            raise
        except NoInterval as reason:
            raise NoInterval(f"the dense value: {reason}") from reason
        if value.influence.keys() != reference.influence.keys():
            raise NoInterval("not of the same items as the dense value")
        return ratio(value, reference) if own.higher_is_better else ratio(reference, value)
