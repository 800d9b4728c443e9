"""Intervals beside the figures of a report, and how to read them."""

from orchestrator.evidence.observation import Observation
from orchestrator.report.formats import interval_text, score_text
from orchestrator.report.model import RunReport
from orchestrator.report.table import Cell
from orchestrator.score import Score
from orchestrator.tracks import Track

_OF_ITEMS = (Track.PERFORMANCE, Track.GENERALIZATION, Track.TRUSTWORTHINESS)
LIKE_BEST = "\N{ALMOST EQUAL TO} "
"""Stands before a score that cannot be told apart from the best."""


def score_cell(report: RunReport, score: Score, value: float, suffix: str = "") -> Cell:
    """An overall metric. Dense is 100 by construction, so it has no interval."""
    known = report.track_score(score.variant, score.track)
    if known is None or known.interval is None or score.variant.is_dense:
        return Cell(score_text(value) + suffix)
    mark = LIKE_BEST if known.like_best else ""
    return Cell(mark + score_text(value) + suffix, interval=interval_text(known.interval.low, known.interval.high))


def measured_interval(report: RunReport, score: Score, entry: Observation) -> str | None:
    """The interval of a value that counts in `score`; None where there is none."""
    known = report.track_score(score.variant, score.track)
    place = (entry.part, entry.name, entry.model)
    found = (
        (value.interval for value in known.values if (value.part, value.name, value.model) == place) if known else ()
    )
    interval = next(iter(found), None)
    return None if interval is None else interval_text(interval.low, interval.high, entry.unit)


def no_interval(report: RunReport, score: Score) -> str | None:
    """Why a score that is made of items has no interval; None where it has one, or cannot."""
    known = report.track_score(score.variant, score.track)
    if known is None or known.interval_reason is None or score.track not in _OF_ITEMS:
        return None
    return f"{score.variant.label}: no interval: {known.interval_reason}"


def reading(report: RunReport) -> str:
    """What the brackets and marks of the overall metrics mean; empty where there are none."""
    if report.uncertainty is None:
        return ""
    compressed = [score for score in report.uncertainty.scores if not score.variant.is_dense]
    if not any(value.interval for score in report.uncertainty.scores for value in score.values):
        return ""
    resampling = report.uncertainty.resampling
    text = (
        f"Square brackets hold {resampling.confidence_percent} % intervals, from {resampling.resamples} resamples of "
        "the items; a score whose interval holds 100 cannot be told apart from dense."
    )
    if any(score.like_best for score in compressed):
        text += f" {LIKE_BEST}marks scores that cannot be told apart from the track's best compressed variant."
    return text
