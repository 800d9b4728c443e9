"""One figure of several variants of a run: a mean, the best or the worst of their scores over the same values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydantic import ConfigDict

from harness.contract import Frozen
from orchestrator.evidence.categories import Category
from orchestrator.evidence.draws import Draws
from orchestrator.evidence.estimate import Estimate, greatest, least, mean
from orchestrator.evidence.interval import if_any, interval_of
from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.value import Interval, Values, Variant
from orchestrator.score.overall import Score, overall_estimate, score, score_over
from orchestrator.tracks import Expectation, Mode, Track


class Selection(Frozen):
    """Compressed variants by what they are; an empty list excludes nothing.

    A setting is meant with any group size: `W4A16` is `W4A16g128`, too.
    """

    methods: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    categories: tuple[Category, ...] = ()

    def holds(self, variant: Variant, category: Category | None) -> bool:
        settings = (variant.setting, _without_group(variant.setting))
        return (
            not variant.is_dense
            and (not self.methods or variant.method in self.methods)
            and (not self.settings or any(one in self.settings for one in settings))
            and (not self.categories or category in self.categories)
        )


class Take(StrEnum):
    """What stands for several variants."""

    MEAN = "mean"
    BEST = "best"
    WORST = "worst"


class Figure(Frozen):
    """A track's overall metric, over some of its parts (in track 5 backends), names and models if they are listed."""

    track: Track
    parts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def within(self, expectation: Expectation) -> Expectation:
        """What of the track's content it is computed from."""
        parts = {
            part: tuple(name for name in names if not self.names or name in self.names)
            for part, names in expectation.parts.items()
            if not self.parts or part in self.parts
        }
        models = tuple(model for model in expectation.models if not self.models or model in self.models)
        kept = {part: names for part, names in parts.items() if names}
        return expectation.model_copy(update={"parts": kept, "models": models})


class Member(Frozen):
    """One variant's part in a side."""

    variant: Variant
    value: float


class SideFigure(Frozen):
    """`take` of the `members`' scores, each over the same `values` many values. `without` are the variants that the
    selection holds and that have no score, with the reason; `absent` the methods of it that the run does not have."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    take: Take
    value: float
    interval: Interval | None = None
    interval_reason: str | None = None
    members: tuple[Member, ...]
    values: int
    without: dict[str, str] = {}
    absent: tuple[str, ...] = ()

    def members_alike(self, other: "SideFigure") -> bool:
        return {one.variant for one in self.members} == {one.variant for one in other.members}


class NoFigure(Exception):
    """There is nothing to make the figure of; the message says why, in a clause."""


@dataclass(frozen=True)
class Asked:
    """The figure of the variants of a selection, and what of them counts."""

    selection: Selection
    figure: Figure
    take: Take = Take.MEAN


@dataclass(frozen=True)
class Found:
    """A side's document with what it was made of. `estimates` are by variant; None where nothing was resampled, with
    the reason in `reason` if something was to be."""

    document: SideFigure
    values: Mapping[Variant, float]
    estimate: Estimate | None
    estimates: Mapping[Variant, Estimate]
    reason: str | None


def figures(asked: Sequence[Asked], evidence: Evidence, mode: Mode = Mode.PAPER) -> tuple[Found, ...]:
    """Each side's figure. Sides of the same figure rest on the same values, those that all of their variants have.

    Raises:
        NoFigure: a side has no variant, or nothing is common to those that it is to be compared with.
    """
    return tuple(_found(one, _column(one, asked, evidence, mode), evidence) for one in asked)


@dataclass(frozen=True)
class _Column:
    """Scores over the same values, and why a variant has none."""

    scores: Mapping[Variant, Score]
    why_none: Mapping[Variant, str]


def _column(one: Asked, asked: Sequence[Asked], evidence: Evidence, mode: Mode) -> _Column:
    """The scores of all variants that stand beside those of `one` for the same figure."""
    expectation = next((it for it in evidence.expectations if it.track is one.figure.track), None)
    if expectation is None:
        raise NoFigure(f"{one.figure.track.metric} is not in this run")
    content = one.figure.within(expectation)
    variants = dict.fromkeys(
        variant for side in asked if side.figure == one.figure for variant in _members(side.selection, evidence)
    )
    alone = {variant: score(content, variant, evidence.values, mode=mode) for variant in variants}
    scored = {variant: found for variant, found in alone.items() if found.value is not None}
    why = {variant: found.reason or "not measured" for variant, found in alone.items() if variant not in scored}
    if not scored:
        return _Column({}, why)
    common = frozenset.intersection(*(found.places for found in scored.values()))
    if not common:
        raise NoFigure(f"no value of {one.figure.track.metric} is common to {', '.join(it.label for it in scored)}")
    over = {
        variant: score_over(common, content, found, evidence.values, mode=mode) for variant, found in scored.items()
    }
    return _Column(over, why)


def _members(selection: Selection, evidence: Evidence) -> list[Variant]:
    return [variant for variant in evidence.variants if selection.holds(variant, evidence.categories.get(variant))]


def _found(asked: Asked, column: _Column, evidence: Evidence) -> Found:
    members = _members(asked.selection, evidence)
    scores = {variant: column.scores[variant] for variant in members if variant in column.scores}
    without = {variant.label: column.why_none[variant] for variant in members if variant not in scores}
    if not scores:
        reasons = "; ".join(dict.fromkeys(without.values()))
        raise NoFigure(reasons or f"the run has no {_selection_text(asked.selection)}")
    values = {variant: found.value for variant, found in scores.items() if found.value is not None}
    estimates, reason = _estimates(scores, evidence.draws, evidence.values)
    estimate = None if reason is not None or not estimates else _TAKEN[asked.take](tuple(estimates.values()))
    interval, no_interval = (None, reason) if estimate is None else _interval(estimate)
    present = {variant.method for variant in members}
    document = SideFigure(
        take=asked.take,
        value=_taken(asked.take, tuple(values.values())),
        interval=interval,
        interval_reason=no_interval,
        members=tuple(Member(variant=variant, value=value) for variant, value in values.items()),
        values=len(next(iter(scores.values())).places),
        without=without,
        absent=tuple(method for method in asked.selection.methods if method not in present),
    )
    return Found(document, values, estimate, estimates, reason)


_TAKEN = {Take.MEAN: mean, Take.BEST: greatest, Take.WORST: least}


def _taken(take: Take, values: Sequence[float]) -> float:
    if take is Take.MEAN:
        return sum(values) / len(values)
    return max(values) if take is Take.BEST else min(values)


def _estimates(
    scores: Mapping[Variant, Score], draws: Draws | None, values: Values
) -> tuple[dict[Variant, Estimate], str | None]:
    if draws is None:
        return {}, None
    found = {}
    for variant, one in scores.items():
        try:
            found[variant] = overall_estimate(one, values, draws)
        except NoInterval as reason:
            return {}, str(reason)
    return found, None


def _interval(estimate: Estimate) -> tuple[Interval | None, str | None]:
    return if_any(lambda: interval_of(estimate))


def _without_group(setting: str | None) -> str | None:
    return None if setting is None else setting.partition("g")[0]


def _selection_text(selection: Selection) -> str:
    methods = " or ".join(selection.methods) or "compressed variant"
    limits = [*selection.settings, *(one.value for one in selection.categories)]
    return f"{methods} at {' or '.join(limits)}" if limits else methods
