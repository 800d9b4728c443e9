"""`orchestrator images check` from beginning to end: image ready, rules of the contract, then what it offers in use."""

from collections.abc import Callable, Iterator
from pathlib import Path

from harness.contract import Device, DeviceKind
from orchestrator.checks.conformance import Check, check_image
from orchestrator.checks.using import EVALUATED_TASK, Bench, Evaluator, use_image
from orchestrator.errors import OrchestratorError
from orchestrator.host.files import remove_if_there
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.runtime.launch import Launcher

CHECKED_NAME = "checked"


def check_and_use(
    runtime: Launcher,
    image: Image,
    device: DeviceKind,
    evaluating: ImageCatalog | None,
    root: Path,
    note: Callable[[str], None],
) -> Iterator[Check]:
    """Put an image to every rule, one after the other. What its workers leave is kept in the store's folder `root`.

    `evaluating` has the image that evaluates what methods make; None: that is left out.

    Raises:
        BadImage: the image cannot be built.
        RuntimeUnavailable: the runtime fails, which says nothing about the image.
    """
    runtime.prepare(image, device, note)
    yield from check_image(runtime, image, device)
    folder = root / CHECKED_NAME / image.name
    remove_if_there(folder)
    folder.mkdir(parents=True)
    evaluator = Evaluator(None, "it was not asked for")
    if evaluating is not None and image.description.methods:
        evaluator = _ready(runtime, evaluating.tasks[EVALUATED_TASK][0], device, note)
    yield from use_image(Bench(runtime, Device(kind=device), folder, evaluator), image)


def _ready(runtime: Launcher, image: Image, device: DeviceKind, note: Callable[[str], None]) -> Evaluator:
    try:
        runtime.prepare(image, device, note)
    except OrchestratorError as failure:
        return Evaluator(None, f"image {image.name!r}, which evaluates, cannot be made ready: {failure.message}")
    return Evaluator(image)
