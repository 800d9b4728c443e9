"""What is chosen between: a variant, through what serves it, with an amount of each quantity and the draws of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from orchestrator.evidence.interval import CONFIDENCE_PERCENT
from orchestrator.evidence.value import Interval, Variant
from orchestrator.figures.metrics import Floats
from orchestrator.manifest.deciding import Quantity


@dataclass(frozen=True)
class Amount:
    """`draws` [resamples] is where the amount may lie, one draw for all amounts of all candidates together.

    None: it was measured, and nothing shows how surely, for the `reason`. An `exact` amount is counted, or so by
    definition.
    """

    value: float
    draws: Floats | None = None
    reason: str | None = None
    exact: bool = False

    def sampled(self, resamples: int) -> Floats:
        """The draws, or where there are none the figure alone [resamples]."""
        return np.full(resamples, self.value) if self.draws is None else self.draws

    @property
    def interval(self) -> Interval | None:
        """The middle of the draws, widened to the figure."""
        if self.draws is None or self.exact:
            return None
        tail = (1 - CONFIDENCE_PERCENT / 100) / 2
        low, high = np.quantile(self.draws, (tail, 1 - tail), method="closest_observation")
        return Interval(low=min(float(low), self.value), high=max(float(high), self.value))


@dataclass(frozen=True)
class Candidate:
    """`backend` is None where none was timed. What has no amount is `missing`, for the reason; `remarks` are what has
    to be known of its amounts."""

    variant: Variant
    backend: str | None
    amounts: Mapping[Quantity, Amount]
    missing: Mapping[Quantity, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.variant.label if self.backend is None else f"{self.variant.label} through {self.backend}"
