"""The paired bootstrap: one draw of items for all figures that are computed from these items."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from harness.contract import Frozen
from orchestrator.evidence.estimate import Estimate
from orchestrator.evidence.interval import CONFIDENCE_PERCENT
from orchestrator.evidence.items import Items, NoInterval, of_a_slice, over_common
from orchestrator.figures.metrics import Floats

Strata = tuple[int, ...]
Key = TypeVar("Key", bound=Hashable)

LEAST_ITEMS = 10
"""The spread of n resampled items is too narrow by the root of (n - 1) / n, and has no t distribution's tails."""
_BLOCK_ENTRIES = 2**21
"""Counts held at once, 16 MiB of them: resamples are drawn in blocks of as many as fit."""
_ROUNDING = 1e-5
"""Relative distance within which a way to average gives the value."""


class Resampling(Frozen):
    """How the intervals are made. The same `seed` gives the same intervals."""

    method: Literal["bca"] = "bca"
    confidence_percent: Literal[95] = CONFIDENCE_PERCENT
    resamples: PositiveInt = 10_000
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class Column:
    """The outcomes behind one printed figure, and the strata that are resampled each for itself.

    The figure is the mean over `strata` (numbers of consecutive items) of their mean outcome.
    """

    value: float
    items: Items
    strata: Strata

    @property
    def key(self) -> str:
        """Equal for columns that share their resamples."""
        return f"{self.items.identity}/{len(self.strata)}"


def ways_to_average(value: float, items: Items) -> tuple[Strata, ...]:
    """Those that give the printed `value`: over all items, or first within each group.

    Raises:
        NoInterval: neither does, or there are too few items.
    """
    if items.scored < LEAST_ITEMS:
        raise NoInterval(f"resampling {items.scored} items shows too little spread: it takes {LEAST_ITEMS}")
    kept = tuple(strata for strata in _averages_giving(value, items) if min(strata) > 1)
    if not kept:
        raise NoInterval("a group of a single item cannot be resampled")
    return kept


def _averages_giving(value: float, items: Items) -> tuple[Strata, ...]:
    """All that are, of however few items.

    Raises:
        NoInterval: there is none.
    """
    ways = tuple(dict.fromkeys(((len(items.values),), items.groups)))
    results = [_figure(items, strata) for strata in ways]
    found = [
        strata for strata, result in zip(ways, results, strict=True) if math.isclose(result, value, rel_tol=_ROUNDING)
    ]
    if not found:
        raise NoInterval(f"the outcomes of the items give {results[0]:g}, not the value {value:g}")
    return tuple(found)


@dataclass(frozen=True)
class Pair:
    """Two figures of the same items over those that neither of them excluded."""

    value: float
    reference: float
    items: int
    own: Items
    others: Items

    def estimates(self, resampling: Resampling) -> tuple[Estimate, Estimate]:
        """Both, of the same items in each resample.

        Raises:
            NoInterval: one of them cannot be resampled.
        """
        refused: dict[str, NoInterval] = {}
        columns = columns_of({"own": (self.value, self.own), "others": (self.reference, self.others)}, refused)
        for reason in refused.values():
            raise reason
        own, others = resample((columns["own"], columns["others"]), resampling)
        return own, others


def pair(value: float, items: Items, reference: float, others: Items) -> Pair | None:
    """Two figures over the items that both have an outcome of; None where these are all of both. Of two slices, one of
    which holds the other, these are the smaller one's.

    Raises:
        NoInterval: they are not of the same items, or have none in common.
    """
    if items.identity != others.identity:
        return _pair_of_slices(items, others)
    if np.array_equal(items.has_outcome, others.has_outcome):
        return None
    ways = _averages_giving(value, items)
    strata = next((one for one in _averages_giving(reference, others) if one in ways), None)
    if strata is None:
        raise NoInterval("not averaged alike over groups")
    own, other = over_common(items, others)
    over, against = _figure(own, strata), _figure(other, strata)
    if math.isnan(over) or math.isnan(against):
        raise NoInterval("there is a group of which they have no item in common")
    return Pair(over, against, own.scored, own, other)


def _pair_of_slices(items: Items, others: Items) -> Pair:
    smaller_is_own = len(items.values) < len(others.values)
    smaller, larger = (items, others) if smaller_is_own else (others, items)
    if (part := of_a_slice(larger, smaller)) is None:
        raise NoInterval("not of the same items")
    own, other = over_common(*((smaller, part) if smaller_is_own else (part, smaller)))
    everything = (len(own.values),)
    return Pair(_figure(own, everything), _figure(other, everything), own.scored, own, other)


def columns_of(printed: Mapping[Key, tuple[float, Items]], refused: dict[Key, NoInterval]) -> dict[Key, Column]:
    """Every figure that can be resampled; the others go to `refused`. Figures of the same items are averaged alike."""
    ways: dict[Key, tuple[Strata, ...]] = {}
    for name, (value, items) in printed.items():
        try:
            ways[name] = ways_to_average(value, items)
        except NoInterval as reason:
            refused[name] = reason
    common: dict[str, list[Strata]] = {}
    for name, found in ways.items():
        identity = printed[name][1].identity
        common[identity] = [strata for strata in common.get(identity, found) if strata in found]
    return {
        name: Column(*printed[name], strata=(common[printed[name][1].identity] or found)[0])
        for name, found in ways.items()
    }


def resample(columns: Sequence[Column], resampling: Resampling) -> tuple[Estimate, ...]:
    """Every column's figure, resampled. Neither the order of the columns nor their company changes a figure."""
    alike: dict[str, dict[bytes, list[int]]] = {}
    for number, one in enumerate(columns):
        content = one.items.values.tobytes() + one.items.weights.tobytes()
        alike.setdefault(one.key, {}).setdefault(content, []).append(number)
    draws: dict[int, Floats] = {}
    for same in alike.values():
        means = _resampled_means([columns[numbers[0]] for numbers in same.values()], resampling)
        draws |= {number: means[place] for place, numbers in enumerate(same.values()) for number in numbers}
    return tuple(_estimate(one, draws[number]) for number, one in enumerate(columns))


def _resampled_means(columns: Sequence[Column], resampling: Resampling) -> Floats:
    """Means over strata [columns, resamples] of columns that share their items and strata."""
    strata = columns[0].strata
    weights = np.column_stack([one.items.counting for one in columns])
    outcomes = np.column_stack([one.items.filled for one in columns]) * weights
    plain = bool(np.all(weights == 1))
    means = np.empty((resampling.resamples, len(columns)))
    begin = 0
    for counts in _counts(columns[0].key, strata, resampling):
        block = means[begin : begin + len(counts)]
        block[:] = 0.0
        for stratum in _slices(strata):
            drawn = counts[:, stratum]
            with np.errstate(invalid="ignore"):
                totals = drawn.shape[1] if plain else drawn @ weights[stratum]
                block += drawn @ outcomes[stratum] / totals / len(strata)
        begin += len(counts)
    return means.T.copy()


def _counts(key: str, strata: Sequence[int], resampling: Resampling) -> Iterator[Floats]:
    """How often each resample holds each item, in blocks [resamples, items]; each stratum keeps its number of items."""
    seed = np.random.SeedSequence([resampling.seed, *key.encode()])
    generator = np.random.Generator(np.random.SFC64(seed))
    total = sum(strata)
    rows = max(1, min(resampling.resamples, _BLOCK_ENTRIES // total))
    for begin in range(0, resampling.resamples, rows):
        counts = np.empty((min(rows, resampling.resamples - begin), total))
        for stratum in _slices(strata):
            size = stratum.stop - stratum.start
            drawn = generator.integers(0, size, size=(len(counts), size), dtype=np.uint32)
            for row, indices in zip(counts, drawn, strict=True):
                row[stratum] = np.bincount(indices, minlength=size)
        yield counts


def _slices(strata: Sequence[int]) -> Iterator[slice]:
    begin = 0
    for size in strata:
        yield slice(begin, begin + size)
        begin += size


def _figure(items: Items, strata: Strata) -> float:
    """The mean over strata; NaN where one has no scored item."""
    means = [_mean(items, stratum) for stratum in _slices(strata)]
    mean = math.fsum(means) / len(means)
    return _exponential(mean) if items.exponential else mean


def _mean(items: Items, stratum: slice) -> float:
    weights = items.counting[stratum]
    total = math.fsum(weights.tolist())
    return math.fsum((items.filled[stratum] * weights).tolist()) / total if total else math.nan


def _exponential(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(value))


def _estimate(one: Column, means: Floats) -> Estimate:
    items, weights = one.items, one.items.counting
    influence = np.zeros_like(weights)
    for stratum in _slices(one.strata):
        deviations = items.filled[stratum] - _mean(items, stratum)
        influence[stratum] = weights[stratum] * deviations / (weights[stratum].sum() * len(one.strata))
    if not items.exponential:
        return Estimate(one.value, means, {one.key: influence})
    with np.errstate(over="ignore"):
        return Estimate(one.value, np.exp(means), {one.key: one.value * influence})
