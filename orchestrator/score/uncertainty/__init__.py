"""How sure a figure is: 95 % intervals of accuracies, perplexities, ratios and overall metrics, and of differences.

The only source of uncertainty counted is the choice of the items. Every figure is resampled with the same items, so
that what two variants get wrong together cancels (a paired bootstrap). See docs/scoring.md.

Not covered: what changes when calibration, seeds or machines change; costs and speeds, which have no items.
"""

from orchestrator.score.uncertainty.records import (
    Comparison,
    Contender,
    Interval,
    McNemar,
    RankStability,
    Resampling,
    RunScores,
    TrackDifference,
    TrackScore,
    ValueDifference,
    ValueScore,
)

__all__ = [
    "Comparison",
    "Contender",
    "Interval",
    "McNemar",
    "RankStability",
    "Resampling",
    "RunScores",
    "TrackDifference",
    "TrackScore",
    "ValueDifference",
    "ValueScore",
]
