"""The six overall metrics (OM), computed from a flat list of observations, each with what went in and what is missing.

    OM = 100 * sqrt(mean over parts of mean over (model, data set) of ratio**2)

The ratio is compressed / dense where higher is better, dense / compressed where lower is better, and in track 3, which
has no dense value, the greatest among the methods / this one. Not covered: intervals, and what a score is worth.
"""

from orchestrator.score.errors import BadObservation
from orchestrator.score.overall import score, score_all
from orchestrator.score.score import Coverage, MissingValue, PartScore, Ratio, Score

__all__ = [
    "BadObservation",
    "Coverage",
    "MissingValue",
    "PartScore",
    "Ratio",
    "Score",
    "score",
    "score_all",
]
