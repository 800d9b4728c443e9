"""The ways a worker can fail, one class a contract error code."""

from harness.contract import ErrorCode, Reason


class WorkerError(Exception):
    """Base of every failure that a worker explains. `hint` says what the user can do next."""

    code = ErrorCode.INTERNAL
    reason: Reason | None = None

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadRequest(WorkerError):
    """The request, or an input that it names, is not usable."""

    code = ErrorCode.BAD_REQUEST


class BadCheckpoint(BadRequest):
    """A checkpoint is incomplete, altered, or holds something other than safetensors."""


class Unsupported(WorkerError):
    """The request is sound, but this image cannot do it, for `reason`."""

    code = ErrorCode.UNSUPPORTED

    def __init__(self, reason: Reason, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class MissingData(WorkerError):
    """A model or data set could not be had from any of its sources."""

    code = ErrorCode.MISSING_DATA


class OutOfMemory(WorkerError):
    """The device or the host ran out of memory."""

    code = ErrorCode.OUT_OF_MEMORY


class DiskFull(WorkerError):
    """The output directory has no space left."""

    code = ErrorCode.DISK_FULL


class Implausible(WorkerError):
    """A figure that cannot be: beyond what the device was measured to do, or of work that was not the model's."""

    code = ErrorCode.IMPLAUSIBLE
