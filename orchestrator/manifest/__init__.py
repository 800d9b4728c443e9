"""The manifest: what a run shall measure."""

from orchestrator.manifest.model import (
    BenchmarkEntry,
    CalibrationEntry,
    CompressEntry,
    EvaluateEntry,
    LimitsEntry,
    Manifest,
    ModelEntry,
    ProfileEntry,
)
from orchestrator.manifest.reading import read_manifest

__all__ = [
    "BenchmarkEntry",
    "CalibrationEntry",
    "CompressEntry",
    "EvaluateEntry",
    "LimitsEntry",
    "Manifest",
    "ModelEntry",
    "ProfileEntry",
    "read_manifest",
]
