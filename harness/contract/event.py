"""What a worker prints: JSON Lines on stdout, each one event, the last exactly one `result` or `error`."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, TypeAdapter

from harness.contract.base import CONTRACT_VERSION, Answer, DeviceKind, ErrorCode, Reason
from harness.contract.request import Operation
from harness.contract.result import Result


class LogLevel(StrEnum):
    INFO = "info"
    WARNING = "warning"


class Started(Answer):
    event: Literal["started"] = "started"
    id: str
    operation: Operation


class Progress(Answer):
    """`done` of `total` units; `total` is None where it is not known."""

    event: Literal["progress"] = "progress"
    done: NonNegativeInt
    total: NonNegativeInt | None = None
    unit: str


class Log(Answer):
    event: Literal["log"] = "log"
    level: LogLevel = LogLevel.INFO
    message: str


class Telemetry(Answer):
    """Named readings at one moment, each name with its unit (`rss_bytes`, `elapsed_seconds`)."""

    event: Literal["telemetry"] = "telemetry"
    readings: dict[str, float]


class Environment(Answer):
    """Provenance that only the worker can see. `cpu_family` is what libraries choose a processor's kernels by."""

    harness_digest: str
    python: str
    platform: str
    device_kind: DeviceKind
    device_model: str
    cpu_family: str | None = None
    driver: str | None = None
    threads: PositiveInt
    libraries: dict[str, str]


class ResultEvent(Answer):
    """The final document of a successful request; also `/out/result.json`."""

    event: Literal["result"] = "result"
    contract: Literal[1] = CONTRACT_VERSION
    id: str
    result: Result
    environment: Environment
    wall_seconds: NonNegativeFloat


class ErrorEvent(Answer):
    """The final document of any other request. `reason` is given exactly when `code` is `unsupported`."""

    event: Literal["error"] = "error"
    contract: Literal[1] = CONTRACT_VERSION
    id: str | None = None
    code: ErrorCode
    reason: Reason | None = None
    message: str
    hint: str


FinalEvent = ResultEvent | ErrorEvent
Event = Annotated[Started | Progress | Log | Telemetry | ResultEvent | ErrorEvent, Field(discriminator="event")]
EVENT: TypeAdapter[Started | Progress | Log | Telemetry | ResultEvent | ErrorEvent] = TypeAdapter(Event)
FINAL_EVENT: TypeAdapter[FinalEvent] = TypeAdapter(Annotated[FinalEvent, Field(discriminator="event")])
RESULT_NAME = "result.json"
