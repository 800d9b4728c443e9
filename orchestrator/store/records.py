"""What the store keeps of a stage and of a run. Each document has a version; `upgrades` brings earlier ones here."""

from collections.abc import Mapping, Set
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field

from harness.contract import (
    Descriptor,
    ExportResult,
    FetchResult,
    FileEntry,
    Frozen,
    Operation,
    Reason,
    ResultEvent,
    Sha256,
    StatesResult,
    one_line,
)
from harness.contract.result import CompressResult
from orchestrator.host.load import MachineLoad
from orchestrator.stages import NotPlanned, Stage, Subject, Turn
from orchestrator.store.asked import Asked
from orchestrator.store.upgrades import stored_manifest


class FailureKind(StrEnum):
    """Why a stage has no result. `unsupported` and `missing_data` are answers; the others are faults.

    `lost`: there was a result, and it cannot be read any more. `refused`: there is one, and its own parts contradict
    it, or they are missing or damaged.
    """

    UNSUPPORTED = "unsupported"
    MISSING_DATA = "missing_data"
    IMPLAUSIBLE = "implausible"
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
    LOST = "lost"
    REFUSED = "refused"


MOST_MESSAGE_CHARACTERS = 2000

Sentence = Annotated[str, AfterValidator(lambda text: one_line(text, MOST_MESSAGE_CHARACTERS))]
"""What somebody else may have written, in one line of bounded length and without control characters."""


class Failure(Frozen):
    """`folder` is where the attempt's request, events and stderr are kept, relative to the store."""

    kind: FailureKind
    message: Sentence
    hint: Sentence = ""
    reason: Reason | None = None
    folder: str | None = None


class Provenance(Frozen):
    """How a stored result came to be; `material` is what its key is the digest of.

    `load` is the machine's while the worker ran; `repeated` says that it ran once before and was disturbed. `whole` is
    the key of the evaluation of all items, where this stage scored a slice of them: what it found is handed on by it.
    `artifact` is the digest of what the stage made for others, where it made anything. `files` are the stage's stored
    files that results are read from, by their paths within its folder. Both are known when the result is kept.
    """

    schema_version: Literal[2] = 2
    stage: str
    key: Sha256
    material: dict[str, Any]
    runtime: str
    host: str
    started: datetime
    wall_seconds: float
    host_peak_memory_bytes: int | None = None
    load: MachineLoad | None = None
    repeated: bool = False
    whole: Sha256 | None = None
    artifact: Sha256 | None = None
    files: dict[str, FileEntry] = {}


class StageRecord(Frozen):
    """A finished stage, as stored. Its artifact may be gone: what was found out is known all the same."""

    provenance: Provenance
    final: ResultEvent

    @property
    def artifact(self) -> Descriptor | None:
        return described(self.final)


def described(final: ResultEvent) -> Descriptor | None:
    """What a result says of the artifact that it comes with, None where it comes with none."""
    result = final.result
    return result.artifact if isinstance(result, FetchResult | CompressResult | ExportResult | StatesResult) else None


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

    `started` is when this run gave it to a worker, None where it did not, and in records of earlier versions. `caveat`
    and `turn` are the planned stage's.
    """

    operation: Operation
    image: str
    subject: Subject | None
    parameters: dict[str, Any]
    status: StageStatus = StageStatus.PENDING
    key: Sha256 | None = None
    failure: Failure | None = None
    started: datetime | None = None
    wall_seconds: float | None = None
    caveat: str | None = None
    turn: Turn | None = None

    @classmethod
    def planned(cls, stage: Stage) -> Self:
        return cls(
            operation=stage.operation,
            image=stage.image,
            subject=stage.subject,
            parameters=stage.parameters.model_dump(mode="json"),
            caveat=stage.caveat,
            turn=stage.turn,
        )

    @property
    def has_result(self) -> bool:
        return self.status in (StageStatus.DONE, StageStatus.CACHED)

    def reached(self, status: StageStatus, **facts: Any) -> Self:
        """The same stage, now with this status and what is known of it."""
        return self.model_copy(update={"status": status, **facts})


class RunFacts(Frozen):
    """What a run was resolved to, from which its results follow: runs that differ in any of it are two runs.

    `manifest_digest` is of what is asked, `plan_digest` of what that came to: stages, parameters and the content of
    folders. `data` says where data sets come from, `images` maps an image and device kind to what exactly runs. None is
    what a record of an earlier version does not say.

    `commit` is that of the checkout that was last at work, if it is one. It alone makes no other run of it: what of the
    source decides a result is in `harness_digest`, `images` and `plan_digest`.
    """

    manifest_digest: Sha256
    plan_digest: Sha256 | None = None
    runtime: str
    device_model: str
    devices: int | None = None
    threads: int | None = None
    data: str | None = None
    version: str | None = None
    contract: int | None = None
    harness_digest: str | None = None
    images: dict[str, str] = {}
    commit: str | None = None

    def differing(self, other: Self) -> tuple[str, ...]:
        """The names, in words, of the facts for which two runs are two."""
        names = (name for name in type(self).model_fields if name != "commit")
        return tuple(name.replace("_", " ") for name in names if getattr(self, name) != getattr(other, name))


class RunRecord(Frozen):
    """A run: what was asked, what it was resolved to, and how far its stages came.

    `ended` is when it came to its end, with or without failures; such a record is never written again.
    `manifest_document` is the manifest as it was asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    schema_version: Literal[2] = 2
    run: str
    facts: RunFacts
    manifest_document: dict[str, Any] = Field(alias="manifest")
    decisions: tuple[str, ...]
    not_planned: tuple[NotPlanned, ...] = ()
    stages: dict[str, StageState]
    created: datetime
    updated: datetime
    ended: datetime | None = None
    interrupted: bool = False

    @cached_property
    def manifest(self) -> Asked:
        """The manifest, as far as scores and reports need it.

        Raises:
            Unreadable: this version does not understand it.
        """
        return stored_manifest(self.run, self.manifest_document)

    @cached_property
    def evaluated(self) -> Mapping[str, Set[str]]:
        """The tasks that each model, by its name, was to be evaluated on."""
        found: dict[str, set[str]] = {}
        for state in self.stages.values():
            if state.operation is Operation.EVALUATE and state.subject is not None:
                found.setdefault(state.subject.model, set()).add(str(state.parameters["task"]))
        return found

    @property
    def runtime(self) -> str:
        return self.facts.runtime

    @property
    def device_model(self) -> str:
        return self.facts.device_model

    def can_go_on(self, facts: RunFacts) -> bool:
        """Whether a run of these facts is this very run, and there is something left of it to do."""
        return self.ended is None and not facts.differing(self.facts)

    @property
    def complete(self) -> bool:
        return all(state.has_result for state in self.stages.values())


def now() -> datetime:
    return datetime.now(UTC)
