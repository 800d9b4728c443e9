"""Which module performs which operation. Each is imported only when asked for, since each needs other libraries."""

import importlib
import os
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError

from harness.contract import (
    BackendDescription,
    DescribeRequest,
    DescribeResult,
    DeviceKind,
    ImageDescription,
    MethodDescription,
    Operation,
    Reason,
    Result,
    WorkRequest,
    did_you_mean,
    operation_module,
)
from harness.errors import BadRequest, Unsupported
from harness.reporter import Reporter

IMAGE_VARIABLE = "LLMCBENCH_IMAGE"
"""Names the `image.toml` of the image that this process is."""

_NAME_THE_MODULE = "write the Python module that does it as `module` beside the name in image.toml"


def perform(request: DescribeRequest | WorkRequest, reporter: Reporter) -> Result:
    """Do what `request` asks and return its result.

    Raises:
        WorkerError: the work cannot be done, for the reason that the class and message give.
    """
    image = describe_image()
    if isinstance(request, DescribeRequest):
        return DescribeResult(image=image)
    operation = Operation(request.operation)
    if operation not in image.operations:
        raise Unsupported(
            Reason.OPERATION,
            f"image {image.name!r} does not {operation.value}",
            hint=f"it does: {', '.join(image.operations)}",
        )
    if request.device.kind not in image.devices:
        raise Unsupported(
            Reason.DEVICE,
            f"image {image.name!r} does not run on {request.device.kind.value}",
            hint=f"it runs on: {', '.join(image.devices)}",
        )
    if request.device.kind is DeviceKind.CPU:
        _set_up_threads(request.device.threads)
    run: Callable[[WorkRequest, Reporter], Result] = importlib.import_module(operation_module(operation)).run
    return run(request, reporter)


def _set_up_threads(threads: int | None) -> None:
    """OpenMP reads these when torch is loaded. Waiting threads sleep: spinning ones stall each other on a busy host."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def describe_image() -> ImageDescription:
    """The description of the image that this process runs in.

    Raises:
        BadRequest: `LLMCBENCH_IMAGE` is unset, or its file is missing or not a valid `image.toml`.
    """
    path = os.environ.get(IMAGE_VARIABLE)
    hint = f"set {IMAGE_VARIABLE} to the image's image.toml, for example images/sparsegpt/image.toml"
    if not path:
        raise BadRequest(f"{IMAGE_VARIABLE} is not set, so this worker does not know which image it is", hint=hint)
    try:
        return _parse_description(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as invalid:
        raise BadRequest(f"{path} is not a valid image description: {invalid}", hint=hint) from invalid


@cache
def _parse_description(text: str) -> ImageDescription:
    return ImageDescription.model_validate(tomllib.loads(text))


def offered_module(
    offers: Sequence[MethodDescription] | Sequence[BackendDescription], name: str, reason: Reason
) -> ModuleType:
    """The module that does what the image's description offers as `name`. `reason` says what kind of thing that is.

    Raises:
        Unsupported: the image offers nothing of that name.
        BadRequest: its description names no module of it that is here.
    """
    found = next((offer for offer in offers if offer.name == name), None)
    if found is None:
        names = [offer.name for offer in offers]
        raise Unsupported(
            reason,
            f"this image has no {reason.value} {name!r}{did_you_mean(name, names)}",
            hint=f"it has: {', '.join(names) or 'none'}",
        )
    if found.module is None:
        raise BadRequest(f"the image's description names no module for {name!r}", hint=_NAME_THE_MODULE)
    try:
        return importlib.import_module(found.module)
    except ModuleNotFoundError as absent:
        if absent.name is None or not f"{found.module}.".startswith(f"{absent.name}."):
            raise
        raise BadRequest(
            f"the image's description names a module for {name!r} that is not here: {found.module}",
            hint=_NAME_THE_MODULE,
        ) from absent
