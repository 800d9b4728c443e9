"""The manifest: what a run shall measure."""

from orchestrator.manifest.deciding import DecideEntry, Quantity
from orchestrator.manifest.hub_source import HubSource, hub_source
from orchestrator.manifest.model import (
    BenchmarkEntry,
    CalibrationEntry,
    CompressEntry,
    EvaluateEntry,
    KeepCheckpoints,
    LimitsEntry,
    Manifest,
    ModelEntry,
    ProfileEntry,
    ScoringEntry,
)
from orchestrator.manifest.reading import pointing_at, read_manifest

__all__ = [
    "BenchmarkEntry",
    "CalibrationEntry",
    "CompressEntry",
    "DecideEntry",
    "EvaluateEntry",
    "HubSource",
    "KeepCheckpoints",
    "LimitsEntry",
    "Manifest",
    "ModelEntry",
    "ProfileEntry",
    "Quantity",
    "ScoringEntry",
    "hub_source",
    "pointing_at",
    "read_manifest",
]
