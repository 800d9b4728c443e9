"""A run's scores with their intervals, the stability of their order, and what to be warned of."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt

from harness.contract import Frozen, Operation
from orchestrator.evidence.draws import Draws
from orchestrator.evidence.estimate import Estimate, difference
from orchestrator.evidence.fidelity import RunFidelity
from orchestrator.evidence.interval import if_any, interval_of
from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.measured import StageFigures
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import Value, Values, Variant
from orchestrator.figures.metrics import Floats
from orchestrator.score.baselines import AgainstBaseline, against_baselines
from orchestrator.score.composition import by_subject, remark
from orchestrator.score.overall import Score, overall_estimate, score_all
from orchestrator.score.protocols import caveat_warnings, protocol_warnings, rounds_warnings, survivor_warnings
from orchestrator.store.imported import Imported
from orchestrator.tracks import Mode, Track

_TRACKS: Mapping[Operation, Collection[Track]] = {
    Operation.EVALUATE: (Track.PERFORMANCE, Track.GENERALIZATION, Track.TRUSTWORTHINESS),
    Operation.COMPRESS: (Track.TRAINING_CONSUMPTION,),
    Operation.PROFILE: (Track.INFERENCE_CONSUMPTION,),
    Operation.BENCHMARK: (Track.HARDWARE_ACCELERATION,),
}
"""What is measured for which tracks; the others' figures are about the checkpoints."""
Probability = Annotated[float, Field(ge=0, le=1)]


class RankStability(Frozen):
    """How often a variant keeps its place among the compressed variants of a track, over the resamples.

    `first` is its share of first places, a place shared by several counting in equal parts; `keeps_rank` how often it
    has the rank that it is printed with. `like_best`: its difference to the best has an interval that holds 0; None
    where there is no such interval, and of the best itself.
    """

    variant: Variant
    rank: PositiveInt
    first: Probability
    keeps_rank: Probability
    like_best: bool | None = None


class TrackRanks(Frozen):
    """`kendall_tau`: the mean, over resamples, of the agreement with the printed order: 1 the same, -1 reversed."""

    track: Track
    variants: tuple[RankStability, ...]
    kendall_tau: float


class RunScores(Frozen):
    """What `orchestrator score` finds out. Fields are only ever added.

    `values` are all that was measured in the tracks of `scores`, `measured` every figure and note of the stages behind
    them and of those that made the checkpoints. `resampling` is None where nothing was resampled, so that nothing has
    an interval. `baselines` hold each variant against what it has to beat, `fidelity` each compressed one against
    dense, token by token and pick by pick. `warnings` say where figures of different protocols stand side by side.
    """

    schema_version: Literal[3] = 3
    run: str
    mode: Mode
    resampling: Resampling | None = None
    values: tuple[Value, ...]
    measured: tuple[StageFigures, ...] = ()
    scores: tuple[Score, ...]
    ranks: tuple[TrackRanks, ...] = ()
    baselines: tuple[AgainstBaseline, ...] = ()
    fidelity: RunFidelity = RunFidelity()
    imported: tuple[Imported, ...] = ()
    warnings: tuple[str, ...] = ()

    def score(self, variant: Variant, track: Track) -> Score | None:
        return next((score for score in self.scores if (score.variant, score.track) == (variant, track)), None)

    def against_baselines(self, variant: Variant, track: Track) -> tuple[str, ...]:
        """What has to be said of a variant that does not certainly beat its baseline in a track, a line each."""
        rows = (one for one in self.baselines if (one.variant, one.track) == (variant, track))
        return tuple(one.sentence for one in rows if one.sentence is not None)

    def like_best(self, variant: Variant, track: Track) -> bool | None:
        """Whether the variant cannot be told apart from the track's best one; None where that is not known."""
        rows = (row for ranks in self.ranks if ranks.track is track for row in ranks.variants)
        return next((row.like_best for row in rows if row.variant == variant), None)


def score_run(evidence: Evidence, mode: Mode = Mode.PAPER, tracks: Collection[Track] = tuple(Track)) -> RunScores:
    """Every variant's score in every track, with an interval or the reason why there is none."""
    values, draws = evidence.values, evidence.draws
    expectations = [one for one in evidence.expectations if one.track in tracks]
    scores = score_all(expectations, values, variants=evidence.variants, mode=mode, draws=draws)
    measured, subjects = evidence.measured, by_subject(evidence.measured)
    ranks = (_ranks(one.track, scores, values, draws) for one in expectations) if draws else ()
    return RunScores(
        run=evidence.run,
        mode=mode,
        resampling=draws.resampling if draws else None,
        values=tuple(value for value in values if value.place.track in tracks),
        measured=tuple(one for one in measured if {*_TRACKS.get(one.operation, tracks)} & {*tracks}),
        scores=tuple(one.model_copy(update={"remark": remark(one, values, subjects)}) for one in scores),
        ranks=tuple(one for one in ranks if one is not None),
        baselines=tuple(against_baselines(evidence, expectations, mode)),
        fidelity=evidence.fidelity,
        imported=evidence.imported,
        warnings=(
            *protocol_warnings(values),
            *caveat_warnings(values),
            *survivor_warnings(values),
            *rounds_warnings(values),
        ),
    )


def _ranks(track: Track, scores: Sequence[Score], values: Values, draws: Draws) -> TrackRanks | None:
    """None for fewer than two variants. Higher is better; the rank is 1 plus the number of better variants."""
    rivals = _rivals(track, scores, values, draws)
    if len(rivals) < 2:
        return None
    sampled = np.column_stack([estimate.draws for estimate in rivals.values()])
    printed = np.array([estimate.value for estimate in rivals.values()])
    greatest = sampled == sampled.max(axis=1, keepdims=True)
    first = (greatest / greatest.sum(axis=1, keepdims=True)).mean(axis=0)
    rows = []
    for place, variant in enumerate(rivals):
        rank = 1 + int(np.sum(printed > printed[place]))
        ranks = 1 + np.sum(sampled > sampled[:, place : place + 1], axis=1)
        rows.append(
            RankStability(
                variant=variant,
                rank=rank,
                first=min(1.0, float(first[place])),
                keeps_rank=float(np.mean(ranks == rank)),
                like_best=_like_best(variant, rivals),
            )
        )
    return TrackRanks(
        track=track,
        variants=tuple(sorted(rows, key=lambda row: (row.rank, row.variant.label))),
        kendall_tau=_kendall_tau(printed, sampled),
    )


def _rivals(track: Track, scores: Sequence[Score], values: Values, draws: Draws) -> dict[Variant, Estimate]:
    """The compressed variants whose scores can be resampled; all of a track rest on the same values."""
    estimates: dict[Variant, Estimate] = {}
    for score in scores:
        if score.track is track and not score.variant.is_dense:
            with suppress(NoInterval):
                estimates[score.variant] = overall_estimate(score, values, draws)
    return estimates


def _like_best(variant: Variant, rivals: Mapping[Variant, Estimate]) -> bool | None:
    best = max(rivals, key=lambda rival: rivals[rival].value)
    if variant == best:
        return None
    interval, _ = if_any(lambda: interval_of(difference(rivals[variant], rivals[best])))
    return None if interval is None else interval.holds(0)


def _kendall_tau(printed: Floats, draws: Floats) -> float:
    """Mean over resamples of (agreeing - disagreeing pairs) / pairs; a pair that is tied in one counts as neither."""
    left, right = np.triu_indices(len(printed), k=1)
    expected = np.sign(printed[left] - printed[right])
    above, below = (
        draws[:, left] > draws[:, right],
        draws[:, left] < draws[:, right],
    )  # infinite ones have no difference
    found = above.astype(float) - below
    return float(np.mean(found * expected))
