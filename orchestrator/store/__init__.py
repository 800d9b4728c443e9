"""Content-addressed results and artifacts, shared by any number of orchestrators."""

from orchestrator.store.records import (
    Failure,
    FailureKind,
    Provenance,
    RunFacts,
    RunRecord,
    StageRecord,
    StageState,
    StageStatus,
    now,
)
from orchestrator.store.store import BadArtifact, Store
from orchestrator.store.versioned import Unreadable

__all__ = [
    "BadArtifact",
    "Failure",
    "FailureKind",
    "Provenance",
    "RunFacts",
    "RunRecord",
    "StageRecord",
    "StageState",
    "StageStatus",
    "Store",
    "Unreadable",
    "now",
]
