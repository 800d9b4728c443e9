"""The overall metrics: ratios averaged within parts, parts averaged, and the interval of it.

Scores that stand in one column rest on the same values: those that every compressed variant with a score has. What a
variant scores over all of its own stands beside, and decides nothing.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from harness.contract import Frozen
from orchestrator.evidence.draws import Draws, NoItems
from orchestrator.evidence.estimate import Estimate, root_mean_square
from orchestrator.evidence.interval import if_any, interval_of
from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.rounds import Floor, OneRound
from orchestrator.evidence.value import Interval, Values, Variant
from orchestrator.score.coverage import Coverage, MissingValue, coverage_of
from orchestrator.score.ratio import Incomparable, Ratio, floor_at, is_like, ratio_at, ratio_estimate
from orchestrator.tracks import Expectation, Mode, Place, Track

NOTHING_IN_COMMON = "no value is common to all compressed variants that have a score here, so nothing can be compared"


class PartScore(Frozen):
    """The score of one part, or of one family in strict mode; `value` is None where nothing of it could be compared."""

    name: str
    value: float | None
    values: int
    values_expected: int


class OwnScore(Frozen):
    """The score over all that its variant has, where other variants of the column have less or other values."""

    value: float
    interval: Interval | None = None
    interval_reason: str | None = None
    parts: tuple[PartScore, ...]


class Score(Frozen):
    """One overall metric of one variant. Dense is 100, in every track but the third. `reason` is given iff `value` is
    None, `interval_reason` iff only `interval` is, where one was sought.

    `value`, its interval, its floor and its `parts` rest on the ratios that are `common` to the column. Where those are
    not all that the variant has, `own` is the score over all, which no other variant's can be compared with. `coverage`
    is of all, too: what the variant lacks stands in `coverage.missing`. `remark` must be known before believing it.

    `floor` is where the score of dense against itself would lie, for costs that were measured in rounds, and in a
    relative track that of a method, were all equally costly; `like_dense`: the score lies within it, or its interval
    holds 100. What is the reference at each place is like nothing.
    """

    track: Track
    metric: str
    variant: Variant
    value: float | None
    reason: str | None = None
    interval: Interval | None = None
    interval_reason: str | None = None
    floor: Interval | None = None
    like_dense: bool | None = None
    parts: tuple[PartScore, ...]
    own: OwnScore | None = None
    coverage: Coverage
    remark: str | None = None
    ratios: tuple[Ratio, ...] = ()

    @property
    def is_partial(self) -> bool:
        return self.value is not None and len(self.counted) < self.coverage.values_expected

    @property
    def counted(self) -> tuple[Ratio, ...]:
        """The terms of `value`."""
        return tuple(ratio for ratio in self.ratios if ratio.common)

    @property
    def places(self) -> frozenset[Place]:
        """Those that count."""
        return frozenset(ratio.place for ratio in self.counted)

    def part(self, name: str) -> PartScore:
        return next(part for part in self.parts if part.name == name)


def score(
    expectation: Expectation,
    variant: Variant,
    values: Values,
    *,
    mode: Mode = Mode.PAPER,
    draws: Draws | None = None,
) -> Score:
    """The overall metric of one variant by itself in one track, over what there is of it; `draws` give its interval."""
    ratios: list[Ratio] = []
    missing: list[MissingValue] = []
    for place in expectation.places_of(variant.method, variant.setting):
        try:
            ratios.append(ratio_at(values, place, variant, expectation.group(place, mode), draws))
        except Incomparable as reason:
            missing.append(MissingValue(place=place, reason=str(reason)))
    return Score(
        track=expectation.track,
        metric=expectation.track.metric,
        variant=variant,
        reason=None if ratios else _why_none(missing),
        coverage=coverage_of(expectation, values, variant, ratios, missing),
        ratios=tuple(ratios),
        **_figures(expectation, variant, ratios, values, mode, draws),
    )


class _Figures(TypedDict):
    """What a score says of some ratios."""

    value: float | None
    interval: Interval | None
    interval_reason: str | None
    floor: Interval | None
    like_dense: bool | None
    parts: tuple[PartScore, ...]


def _figures(
    expectation: Expectation,
    variant: Variant,
    ratios: Sequence[Ratio],
    values: Values,
    mode: Mode,
    draws: Draws | None,
) -> _Figures:
    expected = expectation.places_of(variant.method, variant.setting)
    parts = _parts(Counter(expectation.group(place, mode) for place in expected), ratios)
    squares = [part.value**2 for part in parts if part.value is not None]
    value = math.sqrt(_mean(squares)) if squares else None
    interval, no_interval, floor = None, None, None
    if draws is not None and value is not None:
        figure, sampled = value, draws
        interval, no_interval = if_any(lambda: interval_of(_estimate(values, variant, ratios, figure, sampled)))
        floor = _floor(values, variant, ratios, draws)
    is_reference = variant.is_dense or all(one.place.track.is_relative and one.value == one.reference for one in ratios)
    return _Figures(
        value=value,
        interval=interval,
        interval_reason=no_interval,
        floor=floor,
        like_dense=None if value is None or is_reference else is_like(100.0, value, interval, floor),
        parts=parts,
    )


def score_all(
    expectations: Iterable[Expectation],
    values: Values,
    *,
    variants: Sequence[Variant] = (),
    mode: Mode = Mode.PAPER,
    draws: Draws | None = None,
) -> tuple[Score, ...]:
    """Every variant's score in every track, variant by variant; by default of all variants that occur, dense first.

    Each track is a column: its scores rest on the values that all of them have.
    """
    chosen = tuple(variants) or values.variants
    columns = []
    for expectation in expectations:
        alone = tuple(score(expectation, variant, values, mode=mode, draws=draws) for variant in chosen)
        columns.append(_column(expectation, alone, values, mode, draws))
    return tuple(one for row in zip(*columns, strict=True) for one in row)


def _column(
    expectation: Expectation, scores: tuple[Score, ...], values: Values, mode: Mode, draws: Draws | None
) -> tuple[Score, ...]:
    """The scores over what all have that compete. Dense does not, being 100 over any values, nor what has no score."""
    competing = {one.variant: one.places for one in scores if one.value is not None and not one.variant.is_dense}
    if len(set(competing.values())) < 2:
        return scores
    common = frozenset.intersection(*competing.values())
    return tuple(
        score_over(common, expectation, one, values, mode=mode, draws=draws) if one.variant in competing else one
        for one in scores
    )


def score_over(
    common: Collection[Place],
    expectation: Expectation,
    alone: Score,
    values: Values,
    *,
    mode: Mode = Mode.PAPER,
    draws: Draws | None = None,
) -> Score:
    """What a variant's score `alone` comes to over the `common` ones of its ratios, beside others that have these."""
    ratios = tuple(one.model_copy(update={"common": one.place in common}) for one in alone.ratios)
    kept = [one for one in ratios if one.common]
    found: dict[str, object] = {"ratios": ratios, "reason": None if kept else NOTHING_IN_COMMON}
    if len(kept) < len(ratios) and alone.value is not None:
        found |= _figures(expectation, alone.variant, kept, values, mode, draws)
        found["own"] = OwnScore(
            value=alone.value,
            interval=alone.interval,
            interval_reason=alone.interval_reason,
            parts=alone.parts,
        )
    return alone.model_copy(update=found)


def overall_estimate(of: Score, values: Values, draws: Draws) -> Estimate:
    """The overall metric, resampled, from the same terms as the printed one.

    Raises:
        NoInterval: there is no score, or one of its terms cannot be resampled.
    """
    if of.value is None:
        raise NoInterval(of.reason or "there is no score")
    return _estimate(values, of.variant, of.counted, of.value, draws)


def _estimate(values: Values, variant: Variant, ratios: Sequence[Ratio], value: float, draws: Draws) -> Estimate:
    groups: dict[str, list[Estimate]] = {}
    for term in ratios:
        try:
            estimate = ratio_estimate(values, term.place, variant, draws)
        except (NoItems, OneRound):
            raise
        except NoInterval as reason:
            raise NoInterval(f"{term.place}: {reason}") from reason
        groups.setdefault(term.group, []).append(estimate)
    return replace(root_mean_square(tuple(groups.values())), value=value)


def _floor(values: Values, variant: Variant, ratios: Sequence[Ratio], draws: Draws) -> Interval | None:
    """Where chance alone puts the same score; None where a term has no floor."""
    groups: dict[str, list[Estimate]] = {}
    for term in ratios:
        own = values.get(term.place, variant)
        floor = None if own is None or term.floor is None else floor_at(values, own, draws)
        if floor is None:
            return None
        groups.setdefault(term.group, []).append(Estimate(floor.observed, floor.draws, {}))
    score = root_mean_square(tuple(groups.values()))
    found = Floor(score.value / 100, score.draws / 100).interval
    return Interval(low=100 * found.low, high=100 * found.high)


def _parts(expected: Mapping[str, int], ratios: Sequence[Ratio]) -> tuple[PartScore, ...]:
    """`expected` has the number of values of each complete part."""
    squares: dict[str, list[float]] = {group: [] for group in expected}
    for ratio in ratios:
        squares[ratio.group].append(ratio.ratio**2)
    return tuple(
        PartScore(
            name=group,
            value=100 * math.sqrt(_mean(found)) if found else None,
            values=len(found),
            values_expected=expected[group],
        )
        for group, found in squares.items()
    )


def _mean(values: Sequence[float]) -> float:
    """Summed exactly, so that the order of the values cannot show in the last digit."""
    return math.fsum(values) / len(values)


def _why_none(missing: Sequence[MissingValue]) -> str:
    reasons = dict.fromkeys(value.reason for value in missing)
    return "; ".join(reasons) or "nothing was asked for in this track"
