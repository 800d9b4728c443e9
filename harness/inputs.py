"""The folders that a request names as its inputs."""

from pathlib import Path

from harness.contract import WorkRequest
from harness.errors import BadRequest


def input_folder(request: WorkRequest, name: str) -> Path:
    """The path of the input called `name`.

    Raises:
        BadRequest: the request names no such input.
    """
    if name not in request.inputs:
        given = ", ".join(sorted(request.inputs)) or "none"
        raise BadRequest(
            f"{request.operation} needs the input {name!r}; the request names: {given}",
            hint=f"add {name!r} to the request's inputs",
        )
    return Path(request.inputs[name])
