"""How stable the order of a track's variants is over the resamples."""

from collections.abc import Mapping

import numpy as np

from orchestrator.evidence.items import Floats
from orchestrator.evidence.observation import Variant
from orchestrator.score.uncertainty.estimate import Estimate
from orchestrator.score.uncertainty.records import RankStability, TrackRanks
from orchestrator.tracks import Track


def rank_stability(track: Track, estimates: Mapping[Variant, Estimate]) -> TrackRanks | None:
    """None for fewer than two variants. Higher is better; the rank is 1 plus the number of better variants."""
    if len(estimates) < 2:
        return None
    draws = np.column_stack([estimate.draws for estimate in estimates.values()])
    printed = np.array([estimate.value for estimate in estimates.values()])
    greatest = draws == draws.max(axis=1, keepdims=True)
    first = (greatest / greatest.sum(axis=1, keepdims=True)).mean(axis=0)
    rows = []
    for place, variant in enumerate(estimates):
        rank = 1 + int(np.sum(printed > printed[place]))
        ranks = 1 + np.sum(draws > draws[:, place : place + 1], axis=1)
        rows.append(
            RankStability(
                variant=variant,
                rank=rank,
                first=min(1.0, float(first[place])),
                keeps_rank=float(np.mean(ranks == rank)),
            )
        )
    return TrackRanks(
        track=track,
        variants=tuple(sorted(rows, key=lambda row: (row.rank, row.variant.label))),
        kendall_tau=_kendall_tau(printed, draws),
    )


def _kendall_tau(printed: Floats, draws: Floats) -> float:
    """Mean over resamples of (agreeing - disagreeing pairs) / pairs; a pair that is tied in one counts as neither."""
    left, right = np.triu_indices(len(printed), k=1)
    expected = np.sign(printed[left] - printed[right])
    found = np.sign(draws[:, left] - draws[:, right])
    return float(np.mean(found * expected))
