"""A stage: one invocation of one image. The unit of caching, scheduling, failure and provenance."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from pydantic import PositiveInt

from harness.contract import (
    Device,
    DeviceKind,
    Frozen,
    Operation,
    Parameters,
    Reason,
)
from orchestrator.host import memory

REQUEST_NAME = "request.json"
EVENTS_NAME = "events.jsonl"
STDERR_NAME = "stderr.log"
OUTPUT_NAME = "out"
_MAKING = frozenset({Operation.FETCH, Operation.COMPRESS, Operation.EXPORT, Operation.STATES})


class ImageIdentity(str):
    """What exactly runs: `docker:inputs:<digest>` or `process:<lock digest>:cp311`. Part of the stage key.

    Never the id that an engine gave to a build: the same inputs get another one in every build. The runtime is in it,
    since system libraries, and so perhaps the last digits, differ between a container and its host.
    """

    __slots__ = ()


@dataclass(frozen=True)
class Limits:
    """Bounds on one invocation. `deadline_seconds` is wall time, `stop_seconds` what lies between asking a worker to
    stop and killing it, `leave_seconds` how long it may go on after its answer. `memory_bytes` None: what the machine
    can spare."""

    deadline_seconds: float = 6 * 3600.0
    stop_seconds: float = 10.0
    leave_seconds: float = 120.0
    memory_bytes: int | None = None
    processes: int = 4096

    @property
    def most_memory_bytes(self) -> int:
        """What a worker may take, said or not."""
        return memory.worker_bytes() if self.memory_bytes is None else self.memory_bytes


@dataclass(frozen=True)
class StageOutput:
    """An input that another stage produces."""

    stage: str


@dataclass(frozen=True)
class HostFolder:
    """An input that lies on this host. Its content is pinned by digests in the stage's parameters."""

    path: Path


Input = StageOutput | HostFolder


class Turn(Frozen):
    """Which of several measurements of the same a stage is: in each round dense is measured first and, `again`, last.

    Each is a result of its own, so the turn is part of the key; the very first is the one that a plan without rounds
    makes, too.
    """

    round: PositiveInt = 1
    again: bool = False

    @property
    def label(self) -> str:
        return f"round-{self.round}{'-again' if self.again else ''}"


class Subject(Frozen):
    """What a stage is about, for scores and reports: a model, as it is (`method` None) or compressed."""

    model: str
    family: str
    method: str | None = None
    setting: str | None = None

    @property
    def label(self) -> str:
        return f"{self.model}/dense" if self.method is None else f"{self.model}/{self.method}-{self.setting}"


@dataclass(frozen=True)
class Stage:
    """`timed` stages have their devices alone, and with `host_alone` the whole host. `depends_on_device` puts the
    device's model into the key. `device` names those that may serve it, of which it gets `device_count` when it starts.

    `turn` is which measurement of several it is, None where there is but one. `after` names the stages that must have
    come to an end, with or without a result, before this one starts.

    `caveat` says, in a few words that stand beside its figures, why they are not those of the subject's own weights.
    """

    id: str
    image: str
    operation: Operation
    parameters: Parameters
    inputs: Mapping[str, Input] = field(default_factory=dict)
    device: Device = field(default_factory=Device)
    device_count: int = 1
    limits: Limits = field(default_factory=Limits)
    subject: Subject | None = None
    timed: bool = False
    host_alone: bool = False
    depends_on_device: bool = True
    turn: Turn | None = None
    after: tuple[str, ...] = ()
    caveat: str | None = None

    @property
    def device_names(self) -> tuple[str, ...]:
        """The devices that may serve it, or do so: UUIDs of GPUs, or the kind where none is named."""
        return self.device.uuids or (self.device.kind.value,)

    @property
    def gpus(self) -> int:
        """How many GPUs it takes while it runs: none on a CPU, and none to fetch."""
        takes_none = self.operation is Operation.FETCH or self.device.kind is not DeviceKind.CUDA
        return 0 if takes_none else self.device_count

    def on(self, names: tuple[str, ...]) -> Self:
        """The stage as it starts, on these of its devices."""
        return replace(self, device=self.device.model_copy(update={"uuids": names})) if self.device.uuids else self

    @property
    def makes_artifact(self) -> bool:
        """Whether it leaves something that other stages may read."""
        return self.operation in _MAKING

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the stages whose output this one reads."""
        return tuple(dict.fromkeys(one.stage for one in self.inputs.values() if isinstance(one, StageOutput)))


class NotPlanned(Frozen):
    """What the manifest asks of a backend and is known beforehand to be impossible, with reason and source.

    `operation` is to time it, or to evaluate through it, on `task` or on any; or to compress, and then `backend` is the
    method. `instead` are the backends that would serve the same checkpoint on the same device.
    """

    subject: Subject
    backend: str
    reason: Reason
    message: str
    source: str = ""
    operation: Operation = Operation.BENCHMARK
    task: str | None = None
    instead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Stages in an order in which each comes after what it needs and what it waits for.

    `decisions` are automatic choices with reasons. `architectures` has that of each model of which it is known.
    """

    stages: tuple[Stage, ...]
    not_planned: tuple[NotPlanned, ...] = ()
    decisions: tuple[str, ...] = ()
    architectures: Mapping[str, str] = field(default_factory=dict)

    def stage(self, identity: str) -> Stage:
        return next(stage for stage in self.stages if stage.id == identity)
