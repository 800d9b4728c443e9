"""Ground rules of every contract document: immutability, canonical JSON, digests, and the closed vocabularies."""

import hashlib
import json
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

CONTRACT_VERSION: Literal[1] = 1

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Scalar = bool | int | float | str
"""A value that a manifest can write for a method's option."""


class Frozen(BaseModel):
    """A contract document: immutable, and an unknown field is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(Frozen):
    """What a worker says: numbers are finite, since JSON has no others."""

    model_config = ConfigDict(allow_inf_nan=False)


WHEEL_INPUT = "wheel-"
"""Begins the name of an input of a fetch that is a wheel."""


class Wheel(Frozen):
    """A Python package's wheel, and what it has to be."""

    package: str
    version: str
    sha256: Sha256

    def __str__(self) -> str:
        return f"{self.requirement}#sha256={self.sha256}"

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def input_name(self) -> str:
        """What an input of a fetch is called that is this file, as an earlier fetch brought it."""
        return f"{WHEEL_INPUT}{self.sha256}"


class DeviceKind(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


class Dtype(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class ExitCode(IntEnum):
    """What a worker's exit status means."""

    RESULT = 0
    BAD_REQUEST = 2
    UNSUPPORTED = 3
    OUT_OF_MEMORY = 4
    INTERNAL = 5


class ErrorCode(StrEnum):
    """Why a worker ended without a result. Each code has exactly one exit status: see `exit_code`."""

    BAD_REQUEST = "bad_request"
    UNSUPPORTED = "unsupported"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    MISSING_DATA = "missing_data"
    IMPLAUSIBLE = "implausible"
    INTERNAL = "internal"

    @property
    def exit_code(self) -> ExitCode:
        return {
            ErrorCode.BAD_REQUEST: ExitCode.BAD_REQUEST,
            ErrorCode.UNSUPPORTED: ExitCode.UNSUPPORTED,
            ErrorCode.OUT_OF_MEMORY: ExitCode.OUT_OF_MEMORY,
        }.get(self, ExitCode.INTERNAL)


class Reason(StrEnum):
    """Why something is unsupported. `unsupported` is an answer, not a failure, so the reason is part of the result."""

    OPERATION = "operation"
    METHOD = "method"
    BACKEND = "backend"
    TASK = "task"
    SETTING = "setting"
    FORMAT = "format"
    ARCHITECTURE = "architecture"
    SHAPE = "shape"
    DEVICE = "device"
    DTYPE = "dtype"
    DATA = "data"
    NOT_YET_BUILT = "not_yet_built"


def canonical_json(document: Any) -> bytes:
    """The one byte form of a JSON document: sorted keys, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: the document holds NaN or an infinity.
        TypeError: the document holds something that JSON cannot express.
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(document: Any) -> str:
    """sha256, in hexadecimal, of a JSON document's canonical form."""
    return hashlib.sha256(canonical_json(document)).hexdigest()
