"""A run's scores with intervals."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.measured import Measured
from orchestrator.evidence.observation import Variant
from orchestrator.score import Ratio, Score, score_all
from orchestrator.score.uncertainty.estimate import Estimate, difference
from orchestrator.score.uncertainty.figures import Figures
from orchestrator.score.uncertainty.interval import interval_of, value_interval
from orchestrator.score.uncertainty.protocols import caveat_warnings, protocol_warnings
from orchestrator.score.uncertainty.ranks import rank_stability
from orchestrator.score.uncertainty.records import Interval, Resampling, RunScores, TrackRanks, TrackScore, ValueScore
from orchestrator.tracks import Mode, Track


def score_run(run: Measured, mode: Mode = Mode.PAPER) -> tuple[Score, ...]:
    """Every variant's score in every track."""
    return score_all(run.expectations, run.observations, variants=run.variants, gaps=run.gaps, mode=mode)


def run_scores(run: Measured, scores: Sequence[Score], resampling: Resampling) -> RunScores:
    """The same scores, each with its interval or with the reason why there is none."""
    figures = Figures(run.observations, run.items, resampling)
    overall: dict[tuple[Track, Variant], Estimate] = {}
    reasons: dict[tuple[Track, Variant], str] = {}
    for score in scores:
        try:
            overall[score.track, score.variant] = figures.overall(score)
        except NoInterval as reason:
            reasons[score.track, score.variant] = str(reason)
    rivals = {track: _rivals(track, scores, overall) for track in dict.fromkeys(score.track for score in scores)}
    ranks = (rank_stability(track, estimates) for track, estimates in rivals.items())
    return RunScores(
        run=run.run,
        mode=scores[0].mode if scores else Mode.PAPER,
        resampling=resampling,
        scores=tuple(_track_score(score, figures, overall, reasons, rivals[score.track]) for score in scores),
        ranks=tuple(entry for entry in ranks if isinstance(entry, TrackRanks)),
        warnings=(*protocol_warnings(run.observations), *caveat_warnings(run.observations)),
    )


def _rivals(
    track: Track, scores: Sequence[Score], overall: Mapping[tuple[Track, Variant], Estimate]
) -> dict[Variant, Estimate]:
    """The compressed variants whose scores rest on the same values, the most that any has: others are no match."""
    own = [
        score
        for score in scores
        if score.track is track and not score.variant.is_dense and (track, score.variant) in overall
    ]
    most = max((_places(score) for score in own), key=len, default=frozenset())
    return {score.variant: overall[track, score.variant] for score in own if _places(score) == most}


def _places(score: Score) -> frozenset[tuple[str, str, str]]:
    return frozenset((term.part, term.name, term.model) for term in score.ratios)


def _track_score(
    score: Score,
    figures: Figures,
    overall: Mapping[tuple[Track, Variant], Estimate],
    reasons: Mapping[tuple[Track, Variant], str],
    rivals: Mapping[Variant, Estimate],
) -> TrackScore:
    place = (score.track, score.variant)
    interval, reason = _interval(lambda: interval_of(overall[place])) if place in overall else (None, reasons[place])
    return TrackScore(
        track=score.track,
        metric=score.track.metric,
        variant=score.variant,
        value=score.value,
        reason=score.reason,
        interval=interval,
        interval_reason=None if score.value is None else reason,
        like_best=_like_best(score.variant, rivals),
        parts=score.parts,
        coverage=score.coverage,
        values=tuple(_value_score(score, term, figures) for term in score.ratios),
    )


def _interval(of: Callable[[], Interval]) -> tuple[Interval | None, str | None]:
    """The interval, or the reason why there is none."""
    try:
        return of(), None
    except NoInterval as reason:
        return None, str(reason)


def _like_best(variant: Variant, rivals: Mapping[Variant, Estimate]) -> bool | None:
    if variant not in rivals:
        return None
    best = max(rivals, key=lambda rival: rivals[rival].value)
    if variant == best:
        return None
    interval, _ = _interval(lambda: interval_of(difference(rivals[variant], rivals[best])))
    return None if interval is None else interval.holds(0)


def _value_score(score: Score, term: Ratio, figures: Figures) -> ValueScore:
    entry = figures.observation(score.track, term.part, term.name, term.model, score.variant)
    if entry is None:
        raise LookupError(f"the score counts {term.name} of {term.model}, which was not observed")
    items = figures.items(entry)
    own, no_own = _interval(lambda: value_interval(figures.value(entry)))
    of_ratio, no_ratio = _interval(lambda: interval_of(figures.ratio(score.track, score.variant, term)))
    return ValueScore(
        part=term.part,
        name=term.name,
        model=term.model,
        protocol=entry.protocol,
        metric=entry.metric,
        unit=entry.unit,
        value=entry.value,
        interval=own,
        ratio=term.ratio,
        ratio_interval=of_ratio,
        items=None if items is None else items.scored,
        interval_reason=no_own or no_ratio,
    )
