"""What scores and reports need of a stored run's manifest, and no more.

Nothing here is held against the rules for asking (`orchestrator.manifest.model`): those grow, and what was asked under
earlier ones was measured all the same.
"""

from typing import Any

from harness.contract import REFERENCE_ENGINE, Frozen
from orchestrator.manifest import DecideEntry, ScoringEntry
from orchestrator.manifest.excluding import ExclusionEntry


class AskedModel(Frozen):
    name: str
    source: str
    family: str | None = None


class AskedEvaluation(Frozen):
    tasks: tuple[str, ...] = ()
    engine: tuple[str, ...] = (REFERENCE_ENGINE,)


class AskedBenchmark(Frozen):
    backends: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = ()


class AskedCompression(Frozen):
    """`name` is what stands in stages in place of the method's, where it does."""

    method: str
    name: str | None = None


class Asked(Frozen):
    """`profile` is None where nothing was profiled."""

    models: tuple[AskedModel, ...]
    compress: tuple[AskedCompression, ...] = ()
    evaluate: AskedEvaluation | None = None
    profile: dict[str, Any] | None = None
    benchmark: AskedBenchmark | None = None
    scoring: ScoringEntry = ScoringEntry()
    decide: DecideEntry = DecideEntry()
    exclude: tuple[ExclusionEntry, ...] = ()
