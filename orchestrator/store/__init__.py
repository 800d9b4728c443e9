"""Content-addressed results and artifacts, shared by any number of orchestrators."""

from orchestrator.store.records import (
    Failure,
    FailureKind,
    Provenance,
    RunRecord,
    StageRecord,
    StageState,
    StageStatus,
    now,
)
from orchestrator.store.store import BadArtifact, Store

__all__ = [
    "BadArtifact",
    "Failure",
    "FailureKind",
    "Provenance",
    "RunRecord",
    "StageRecord",
    "StageState",
    "StageStatus",
    "Store",
    "now",
]
