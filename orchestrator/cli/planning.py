"""`plan`: from a request to what would be run. All that measures begins here, too."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import options
from orchestrator.host.devices import ChosenDevice
from orchestrator.host.gpu_models import planned_device
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import find_manifest
from orchestrator.manifest import KeepCheckpoints, Manifest, pointing_at, read_manifest
from orchestrator.run.run import Setup

if TYPE_CHECKING:
    from orchestrator.run.keys import KeyChange
    from orchestrator.run.preview import StagePreview

MOST_NAMES = 4
"""Changed files, parameters or inputs that a line of a plan names."""


def plan(
    manifest: Annotated[Path, typer.Argument(help=f"The manifest to plan: {options.MANIFEST_HELP}")],
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="Instead of the manifest's device; cuda:H200 plans for a GPU not here."),
    ] = None,
    gpu_memory: Annotated[
        str | None, typer.Option("--gpu-memory", help="Plan for a GPU with so much memory, such as 80GiB.")
    ] = None,
    devices: Annotated[int, typer.Option("--devices", help="How many GPUs there are where one is planned for.")] = 1,
    runtime: Annotated[str | None, typer.Option("--runtime", "-r", help="Instead of the manifest's runtime.")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="A page instead of all stages.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON object a stage on stdout.")] = False,
    keep_checkpoints: options.Keep = None,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
) -> None:
    """Show what a manifest would run, and what is known already. Builds and runs nothing.

    Of a stage that was run before and is to run again, the parts of its key that differ are named.

    Example: orchestrator plan full --device cuda:H200 --devices 8 --summary
    """
    catalog, path = options.catalog(more_images), find_manifest(manifest)
    elsewhere = planned_device(device, gpu_memory, devices)
    with pointing_at(path):
        setup = prepare(
            read_for(path, None if elsewhere else device, runtime, keep_checkpoints=keep_checkpoints),
            store,
            catalog,
            elsewhere,
        )
    if summary:
        show_summary(setup)
    else:
        show_plan(setup, jsonl=jsonl)


def show_summary(setup: Setup) -> None:
    from orchestrator.run.estimate import estimate
    from orchestrator.run.overview import overview
    from orchestrator.run.preview import look_ahead

    for line in overview(setup, estimate(setup, look_ahead(setup))):
        typer.echo(line)


def show_plan(setup: Setup, *, jsonl: bool) -> None:
    """A line a stage on stdout, of text or of JSON; what is not planned and what it will cost on stderr."""
    from orchestrator.run.estimate import estimate
    from orchestrator.run.overview import not_planned_lines
    from orchestrator.run.preview import look_ahead, preview

    for decision in setup.decisions:
        typer.echo(f"note: {decision}", err=True)
    known = look_ahead(setup)
    for stage in preview(setup, known):
        if jsonl:
            typer.echo(json.dumps(stage.model_dump(mode="json"), ensure_ascii=False))
        else:
            needs = f"  after {', '.join(stage.needs)}" if stage.needs else ""
            typer.echo(f"{stage.status:8} {stage.id}  [{stage.image}]{needs}")
            if stage.before is not None or stage.not_used is not None:
                typer.echo(f"{'':8} again{_why(stage)}")
    for line in not_planned_lines(setup.plan.not_planned):
        typer.echo(line, err=True)
    for line in estimate(setup, known).lines:
        typer.echo(line, err=True)


def _why(stage: "StagePreview") -> str:
    """Why a stage with a stored result is to run again."""
    if stage.not_used is not None:
        return f": {stage.not_used}"
    if stage.changes:
        return f": {', '.join(_changed(change) for change in stage.changes)}"
    if stage.unknown:
        return f", unless {' and '.join(stage.unknown)} {'is' if len(stage.unknown) == 1 else 'are'} as before"
    return ": what it made is no longer there"


def _changed(change: "KeyChange") -> str:
    more = len(change.names) - MOST_NAMES
    names = (*change.names[:MOST_NAMES], *([f"{more} more"] if more > 0 else []))
    return f"{change.part.value} changed" + (f" ({', '.join(names)})" if names else "")


def read_for(
    path: Path,
    device: str | None,
    runtime: str | None,
    *,
    exclusive_host: bool = False,
    keep_checkpoints: KeepCheckpoints | None = None,
) -> Manifest:
    manifest = read_manifest(path)
    asked = {
        "device": device,
        "runtime": runtime,
        "exclusive_host": exclusive_host or None,
        "keep_checkpoints": keep_checkpoints,
    }
    changes = {name: value for name, value in asked.items() if value is not None}
    return Manifest.model_validate({**manifest.model_dump(), **changes})


def prepare(
    manifest: Manifest,
    store: Path,
    catalog: ImageCatalog,
    elsewhere: ChosenDevice | None = None,
    *,
    runs_here: bool = False,
    warm: bool = False,
) -> Setup:
    from orchestrator.run.setup import prepare_setup

    return prepare_setup(manifest, store, catalog, elsewhere, runs_here=runs_here, warm=warm)
