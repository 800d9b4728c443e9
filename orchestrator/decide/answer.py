"""What `orchestrator recommend` finds out, as a document."""

from typing import Literal

from pydantic import ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveInt

from harness.contract import Frozen
from orchestrator.decide.limits import Standing, Verdict
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import Interval, Variant
from orchestrator.manifest.deciding import DecideEntry, Quantity
from orchestrator.score.scores import Probability

_NUMBERS = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Choice(Frozen):
    """A variant and what serves it; `backend` is None where none was timed."""

    variant: Variant
    backend: str | None = None

    @property
    def label(self) -> str:
        return self.variant.label if self.backend is None else f"{self.variant.label} through {self.backend}"


class AmountEntry(Frozen):
    """`unit` is `fraction`, `bytes`, `tokens/s` or `seconds`. An amount that is `exact` needs no interval; another one
    without has the reason."""

    model_config = _NUMBERS

    quantity: Quantity
    value: float
    unit: str
    interval: Interval | None = None
    interval_reason: str | None = None
    exact: bool = False


class LimitEntry(Frozen):
    """Whether a limit is kept. `probability` is that it is, None where no draws show it: then the figure alone decides,
    or there is none, for the `reason`."""

    quantity: Quantity
    verdict: Verdict
    probability: Probability | None = None
    by_figure_alone: bool = False
    reason: str | None = None


class CandidateEntry(Frozen):
    """`within` is the probability that all limits are kept together, None where one has no draws. The rest is of what
    the limits do not certainly exclude: `pareto` is the probability of being in the Pareto set, `utility` the weighted
    doublings over dense, `best` the probability of the most of it, and those with the same `group` cannot be told
    apart by it (1 is the best group). What rests on a cost that was measured once has no interval and no `best`.
    `items_needed`, of an open loss, is about how many items would tell."""

    model_config = _NUMBERS

    choice: Choice
    standing: Standing
    amounts: tuple[AmountEntry, ...]
    missing: dict[Quantity, str] = {}
    limits: tuple[LimitEntry, ...]
    within: Probability | None = None
    pareto: Probability | None = None
    utility: float | None = None
    utility_interval: Interval | None = None
    best: Probability | None = None
    group: PositiveInt | None = None
    items_needed: NonNegativeInt | None = None
    remarks: tuple[str, ...] = ()

    def amount(self, quantity: Quantity) -> AmountEntry | None:
        return next((one for one in self.amounts if one.quantity is quantity), None)

    def limit(self, quantity: Quantity) -> LimitEntry | None:
        return next((one for one in self.limits if one.quantity is quantity), None)


class LossMeasure(Frozen):
    """What the loss was taken over: `tasks` that count the same, `items` in all. `guessing` is what picking by chance
    would lose. `by_perplexity`: no task with right answers was evaluated."""

    tasks: tuple[str, ...]
    items: NonNegativeInt
    left_out: dict[str, str] = {}
    guessing: float | None = None
    by_perplexity: bool = False


class ForNothing(Frozen):
    """A baseline of the recommended variant, or dense. `as_good`: the recommended one does not certainly lose less;
    None where that is not known, for the `reason`. `difference` is the baseline's loss less the recommended one's."""

    variant: Variant
    as_good: bool | None
    difference: float | None = None
    interval: Interval | None = None
    reason: str | None = None


class OpenPoint(Frozen):
    """Something that was not found out and could change the answer. `choice` is None where it is of all."""

    choice: Choice | None
    reason: str


class Answer(Frozen):
    """Of one model. `recommended` is None where nothing can be, for the reason `why_none`; dense is recommended where
    nothing that was compressed is certainly better under the preference. `alike` keep the limits, too, and cannot be
    told apart from it.

    `weights` are those of the preference that something was measured of. `batch` is the number of prompts at once that
    speeds are of. `candidates` are in the order of the ranking, then those that are out of it, then the excluded.
    """

    model: str
    recommended: Choice | None
    alike: tuple[Choice, ...] = ()
    why_none: str | None = None
    loss: LossMeasure
    weights: dict[Quantity, float]
    batch: PositiveInt | None = None
    candidates: tuple[CandidateEntry, ...]
    for_nothing: tuple[ForNothing, ...] = ()
    open: tuple[OpenPoint, ...] = ()

    def entry(self, choice: Choice | None) -> CandidateEntry | None:
        return next((one for one in self.candidates if one.choice == choice), None)

    @property
    def chosen(self) -> CandidateEntry | None:
        return None if self.recommended is None else self.entry(self.recommended)

    def standing_as(self, standing: Standing) -> tuple[CandidateEntry, ...]:
        return tuple(one for one in self.candidates if one.standing is standing)


class Fallen(Frozen):
    variant: Variant
    reason: str


class RaceLook(Frozen):
    """After so many `items` of each task had been scored by the variants `scored`. `fell` are those that all items will
    not recommend, `left` those that they may. `likely` is the share of imagined full runs that give the answer of what
    was seen; None where dense alone was looked at, to find the tasks that count."""

    items: dict[str, PositiveInt]
    scored: tuple[Variant, ...]
    fell: tuple[Fallen, ...] = ()
    left: tuple[Variant, ...] = ()
    likely: Probability | None = None


class ModelRace(Frozen):
    """`by_costs`: what is not scored, since its costs exclude it or leave it open; `without`: what dropped out for want
    of a result. What is `left` may still be recommended by all items where it was not `decided`."""

    model: str
    decided: bool
    by_costs: tuple[Variant, ...] = ()
    without: tuple[Fallen, ...] = ()
    looks: tuple[RaceLook, ...] = ()
    left: tuple[Variant, ...] = ()


class Spent(Frozen):
    """What a race took, and what all of the manifest would.

    An evaluation is one item scored by one variant, in the tasks that were raced; all variants of the manifest would
    score all items of these. `seconds` are those of its stages, `seconds_of_all` an estimate, without the stages that
    are `not_estimated`.
    """

    evaluations: NonNegativeInt
    evaluations_of_all: NonNegativeInt
    seconds: NonNegativeFloat
    seconds_of_all: NonNegativeFloat
    not_estimated: tuple[str, ...] = ()


class RaceSummary(Frozen):
    """How a decision was come to by a race. `budget_seconds` is what it was given, where it was given some."""

    models: tuple[ModelRace, ...]
    spent: Spent
    budget_seconds: NonNegativeFloat | None = None

    @property
    def decided(self) -> bool:
        return all(one.decided for one in self.models)


class Decision(Frozen):
    """An answer for each model of a run. Fields are only ever added.

    `asked` are the limits and the preference. Which draws it rests on is in `resampling`. `race` says how it was come
    to where not all that the manifest asks for was measured.
    """

    schema_version: Literal[1] = 1
    run: str
    device: str
    asked: DecideEntry
    resampling: Resampling
    answers: tuple[Answer, ...]
    race: RaceSummary | None = None
