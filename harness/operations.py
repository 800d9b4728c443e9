"""Which module performs which operation. Each is imported only when asked for, since each needs other libraries."""

import importlib
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from harness.contract import (
    DescribeRequest,
    DescribeResult,
    DeviceKind,
    ImageDescription,
    Operation,
    Reason,
    Result,
    WorkRequest,
)
from harness.errors import BadRequest, Unsupported
from harness.reporter import Reporter

IMAGE_VARIABLE = "LLMCBENCH_IMAGE"
"""Names the `image.toml` of the image that this process is."""

_MODULES = {
    Operation.FETCH: "harness.fetch",
    Operation.COMPRESS: "harness.methods",
    Operation.EXPORT: "harness.exporting",
    Operation.EVALUATE: "harness.evaluation",
    Operation.PROFILE: "harness.profiling",
    Operation.BENCHMARK: "harness.backends",
}


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
    run: Callable[[WorkRequest, Reporter], Result] = importlib.import_module(_MODULES[operation]).run
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
        return ImageDescription.model_validate(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as invalid:
        raise BadRequest(f"{path} is not a valid image description: {invalid}", hint=hint) from invalid
