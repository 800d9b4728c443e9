"""Speeds that chance alone could tell from the dense model's: marked, with the noise floor that was measured."""

from orchestrator.evidence.observation import Observation
from orchestrator.report.intervals import LIKE_BEST
from orchestrator.report.model import RunReport


def noise_text(report: RunReport, entry: Observation) -> str | None:
    """The mark of a value whose ratio to the dense one lies within the larger of both noise floors; else None."""
    dense = next((one for one in report.observations if one.variant.is_dense and _same_place(one, entry)), None)
    if dense is None or entry.variant.is_dense:
        return None
    floors = [one.noise_floor for one in (dense, entry) if one.noise_floor is not None]
    if not floors or min(dense.value, entry.value) <= 0:
        return None
    apart = max(dense.value, entry.value) / min(dense.value, entry.value) - 1
    return f"({LIKE_BEST}dense, noise {max(floors):.1%})" if apart <= max(floors) else None


def _same_place(first: Observation, second: Observation) -> bool:
    return all(getattr(first, name) == getattr(second, name) for name in ("track", "part", "name", "model", "protocol"))
