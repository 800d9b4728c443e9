"""What the store keeps of a stage and of a run."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from harness.contract import Descriptor, ExportResult, FetchResult, Frozen, Operation, Reason, ResultEvent, Sha256
from harness.contract.result import CompressResult
from orchestrator.manifest import Manifest
from orchestrator.stages import NotPlanned, Stage, Subject


class FailureKind(StrEnum):
    """Why a stage has no result. `unsupported` and `missing_data` are answers; the others are faults."""

    UNSUPPORTED = "unsupported"
    MISSING_DATA = "missing_data"
    BAD_REQUEST = "bad_request"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    INTERNAL = "internal"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    CONTRACT_VIOLATION = "contract_violation"
    BAD_ARTIFACT = "bad_artifact"
    INFRASTRUCTURE = "infrastructure"
    INTERRUPTED = "interrupted"
    BLOCKED = "blocked"


class Failure(Frozen):
    """`folder` is where the attempt's request, events and stderr are kept, relative to the store."""

    kind: FailureKind
    message: str
    hint: str = ""
    reason: Reason | None = None
    folder: str | None = None


class Provenance(Frozen):
    """How a stored result came to be; `material` is what its key is the digest of."""

    stage: str
    key: Sha256
    material: dict[str, Any]
    runtime: str
    host: str
    started: datetime
    wall_seconds: float
    host_peak_memory_bytes: int | None = None


class StageRecord(Frozen):
    """A finished stage, as stored."""

    provenance: Provenance
    final: ResultEvent

    @property
    def artifact(self) -> Descriptor | None:
        result = self.final.result
        return result.artifact if isinstance(result, FetchResult | CompressResult | ExportResult) else None


class StageStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    CACHED = "cached"
    DONE = "done"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    BLOCKED = "blocked"
    INTERRUPTED = "interrupted"


class StageState(Frozen):
    """One stage within one run: what was planned, and how far it came. `key` is known once its inputs are.

    `caveat` is the planned stage's, which stands wherever its figures do.
    """

    operation: Operation
    image: str
    subject: Subject | None
    parameters: dict[str, Any]
    status: StageStatus = StageStatus.PENDING
    key: Sha256 | None = None
    failure: Failure | None = None
    wall_seconds: float | None = None
    caveat: str | None = None

    @classmethod
    def planned(cls, stage: Stage) -> Self:
        return cls(
            operation=stage.operation,
            image=stage.image,
            subject=stage.subject,
            parameters=stage.parameters.model_dump(mode="json"),
            caveat=stage.caveat,
        )

    def reached(self, status: StageStatus, **facts: Any) -> Self:
        """The same stage, now with this status and what is known of it."""
        return self.model_copy(update={"status": status, **facts})


class RunRecord(Frozen):
    """A run: one manifest on one device and runtime. Running it again continues it."""

    run: str
    manifest: Manifest
    runtime: str
    device_model: str
    decisions: tuple[str, ...]
    not_planned: tuple[NotPlanned, ...] = ()
    stages: dict[str, StageState]
    created: datetime
    updated: datetime
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        return all(state.status in (StageStatus.DONE, StageStatus.CACHED) for state in self.stages.values())


def now() -> datetime:
    return datetime.now(UTC)
