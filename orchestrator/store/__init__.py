"""Content-addressed results and artifacts, shared by any number of orchestrators."""

from orchestrator.store.described import BadArtifact
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
from orchestrator.store.store import Store
from orchestrator.store.versioned import Refused, Unreadable

__all__ = [
    "BadArtifact",
    "Failure",
    "FailureKind",
    "Provenance",
    "Refused",
    "RunFacts",
    "RunRecord",
    "StageRecord",
    "StageState",
    "StageStatus",
    "Store",
    "Unreadable",
    "now",
]
