"""Whether a method is worth its cost: each variant's score against that of its baseline, over the items of both."""

from collections.abc import Iterator, Sequence

from harness.contract import Frozen
from orchestrator.evidence.baselines import Baseline
from orchestrator.evidence.draws import Draws
from orchestrator.evidence.estimate import difference
from orchestrator.evidence.interval import if_any, interval_of
from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.value import Interval, Values, Variant
from orchestrator.score.overall import Score, overall_estimate, score, score_over
from orchestrator.tracks import Expectation, Mode, Track

JUDGED = (Track.PERFORMANCE, Track.GENERALIZATION, Track.TRUSTWORTHINESS)
"""The tracks of accuracy. Of cost a baseline has next to none, and size and speed are those of the setting."""


class AgainstBaseline(Frozen):
    """A variant's overall metric less its baseline's, both over the `values` that both have, item by item.

    `beats`: the interval lies above 0. None where there is no interval, for the `reason`.
    """

    track: Track
    variant: Variant
    baseline: Baseline
    values: int = 0
    difference: float | None = None
    interval: Interval | None = None
    beats: bool | None = None
    reason: str | None = None

    @property
    def sentence(self) -> str | None:
        """What stands beside the row, in a line; None where the variant beats its baseline."""
        label = self.baseline.variant.label
        if self.baseline.differs:
            label += f" ({', '.join(self.baseline.differs)})"
        if self.beats is None:
            return f"not known whether it beats {label}: {self.reason}"
        if self.beats or self.difference is None or self.interval is None:
            return None
        found = f"{self.difference:+.2f} [{self.interval.low:.2f}, {self.interval.high:.2f}] of {self.track.metric}"
        says = "is worse than" if self.interval.high < 0 else "does not beat"
        return f"{says} {label} beyond noise: {found}"


def against_baselines(evidence: Evidence, expectations: Sequence[Expectation], mode: Mode) -> Iterator[AgainstBaseline]:
    """Every variant that has a baseline in the run, in every track of accuracy where either was measured."""
    if evidence.draws is None:
        return
    for expectation in expectations:
        if expectation.track not in JUDGED:
            continue
        named = [(variant, baseline) for variant, found in evidence.baselines.items() for baseline in found]
        sides = dict.fromkeys(side for variant, baseline in named for side in (variant, baseline.variant))
        alone = {side: score(expectation, side, evidence.values, mode=mode) for side in sides}
        for variant, baseline in named:
            both = (alone[variant], alone[baseline.variant])
            judged = _judge(evidence.values, evidence.draws, expectation, mode, both, baseline)
            if judged is not None:
                yield judged


def _judge(
    values: Values, draws: Draws, expectation: Expectation, mode: Mode, full: tuple[Score, Score], baseline: Baseline
) -> AgainstBaseline | None:
    track, variant = expectation.track, full[0].variant
    if not (full[0].places or full[1].places):
        return None
    common = full[0].places & full[1].places
    if not common:
        return AgainstBaseline(track=track, variant=variant, baseline=baseline, reason="no value counts for both")
    ours, theirs = (score_over(common, expectation, side, values, mode=mode) for side in full)
    try:
        apart = difference(*(overall_estimate(side, values, draws) for side in (ours, theirs)))
    except NoInterval as none:
        return AgainstBaseline(track=track, variant=variant, baseline=baseline, values=len(common), reason=str(none))
    interval, reason = if_any(lambda: interval_of(apart))
    return AgainstBaseline(
        track=track,
        variant=variant,
        baseline=baseline,
        values=len(common),
        difference=apart.value,
        interval=interval,
        beats=None if interval is None else interval.low > 0,
        reason=reason,
    )
