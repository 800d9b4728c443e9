"""What `orchestrator score` and `orchestrator compare` find out, as documents. Fields are only ever added."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt

from harness.contract import Frozen
from orchestrator.evidence.observation import Variant
from orchestrator.score import Coverage, PartScore
from orchestrator.tracks import Mode, Track

CONFIDENCE_PERCENT: Literal[95] = 95

Probability = Annotated[float, Field(ge=0, le=1)]


class _Document(Frozen):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Interval(Frozen):
    """Where the figure lies, with the confidence that `Resampling` names. Both ends belong to it."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


class Resampling(Frozen):
    """How the intervals were made. The same `seed` gives the same intervals."""

    method: Literal["bca"] = "bca"
    confidence_percent: Literal[95] = CONFIDENCE_PERCENT
    resamples: PositiveInt = 10_000
    seed: NonNegativeInt = 0


class ValueScore(_Document):
    """One measured value of one model, and its ratio to the dense value. `items` were scored.

    An interval that is None has its reason in `interval_reason`; `ratio` is None where the value does not count in the
    score, for the reason in the score's coverage.
    """

    part: str
    name: str
    model: str
    protocol: str
    metric: str
    unit: str
    value: float
    interval: Interval | None = None
    ratio: float | None = None
    ratio_interval: Interval | None = None
    items: PositiveInt | None = None
    interval_reason: str | None = None


class TrackScore(_Document):
    """An overall metric of a variant. `reason` is given iff `value` is None, `interval_reason` iff only `interval` is.

    `like_best`: the difference to the best compressed variant of the track has an interval that holds 0; None where
    that is not known, and of the best itself.
    """

    track: Track
    metric: str
    variant: Variant
    value: float | None
    reason: str | None = None
    interval: Interval | None = None
    interval_reason: str | None = None
    like_best: bool | None = None
    parts: tuple[PartScore, ...] = ()
    coverage: Coverage
    values: tuple[ValueScore, ...] = ()


class RankStability(_Document):
    """How often a variant keeps its place among the compressed variants of a track, over the resamples.

    `first` is its share of first places, a place shared by several counting in equal parts; `keeps_rank` how often it
    has the rank that it is printed with.
    """

    variant: Variant
    rank: PositiveInt
    first: Probability
    keeps_rank: Probability


class TrackRanks(_Document):
    """`kendall_tau`: the mean, over resamples, of the agreement with the printed order: 1 the same, -1 reversed."""

    track: Track
    variants: tuple[RankStability, ...]
    kendall_tau: float


class RunScores(_Document):
    """A run's scores with their intervals. `warnings` say where figures of different protocols stand side by side."""

    schema_version: Literal[1] = 1
    run: str
    mode: Mode
    resampling: Resampling
    scores: tuple[TrackScore, ...]
    ranks: tuple[TrackRanks, ...] = ()
    warnings: tuple[str, ...] = ()

    def score(self, variant: Variant, track: Track) -> TrackScore | None:
        return next((score for score in self.scores if (score.variant, score.track) == (variant, track)), None)


class Contender(Frozen):
    run: str
    variant: Variant


class McNemar(Frozen):
    """Items that only one of the two gets right, and the exact two-sided p-value of so uneven a split."""

    only_a: NonNegativeInt
    only_b: NonNegativeInt
    p_value: Probability


class ValueDifference(_Document):
    """a - b of one value. `p_value` is two-sided and agrees with the interval: below 0.05 iff that leaves out 0.

    `reason` says why there is no difference, or none with an interval. `mcnemar` is given where each item is right or
    wrong.
    """

    track: Track
    part: str
    name: str
    model: str
    protocol: str
    unit: str
    a: float | None = None
    b: float | None = None
    difference: float | None = None
    interval: Interval | None = None
    p_value: Probability | None = None
    mcnemar: McNemar | None = None
    items: PositiveInt | None = None
    reason: str | None = None


class TrackDifference(_Document):
    """a - b of an overall metric, both computed from the `values` that both have; otherwise as `ValueDifference`."""

    track: Track
    metric: str
    a: float | None = None
    b: float | None = None
    difference: float | None = None
    interval: Interval | None = None
    p_value: Probability | None = None
    values: NonNegativeInt = 0
    reason: str | None = None


class Comparison(_Document):
    """Two variants, of one run or of two. `warnings` say what a reader must know before believing the differences."""

    schema_version: Literal[1] = 1
    a: Contender
    b: Contender
    mode: Mode
    resampling: Resampling
    tracks: tuple[TrackDifference, ...]
    values: tuple[ValueDifference, ...]
    warnings: tuple[str, ...] = ()
