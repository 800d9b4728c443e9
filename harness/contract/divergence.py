"""What the outcomes of a comparison with the dense model come to: `docs/protocols.md` has each metric.

Every token counts the same. A quantile is the smallest divergence that the share of all tokens does not exceed, so that
each is that of a token. Sums are rounded once.
"""

import math
from collections.abc import Sequence

from harness.contract.items import FidelityItem

QUANTILES = {"kl_median": 0.5, "kl_p90": 0.9, "kl_p99": 0.99, "kl_p999": 0.999}
"""By metric, the share of tokens whose divergence is no larger."""


def divergence_metrics(items: Sequence[FidelityItem]) -> dict[str, float]:
    """The metrics of the scored ones of `items`; none where there are none. Divergences are in nats."""
    scored = [item for item in items if item.divergences is not None]
    if not scored:
        return {}
    divergences = sorted(one for item in scored for one in item.divergences or ())
    tokens = len(divergences)

    def mean(name: str) -> float:
        return math.fsum(getattr(item, name) for item in scored) / tokens

    return {
        "kl_mean": math.fsum(divergences) / tokens,
        **{name: divergences[rank(share, tokens)] for name, share in QUANTILES.items()},
        "kl_max": divergences[-1],
        "same_top": mean("same_top"),
        "right_probability_change": mean("right_probability") - mean("dense_right_probability"),
        "right_probability_change_rms": math.sqrt(mean("squared_change")),
        "nats_per_token": mean("nats"),
        "dense_nats_per_token": mean("dense_nats"),
    }


def rank(share: float, count: int) -> int:
    """The place, from 0, of the quantile of `share` among `count` sorted values."""
    return min(count - 1, max(0, math.ceil(share * count - 1e-9) - 1))
