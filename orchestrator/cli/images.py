"""`images list | base | build | lock | check`: looking after the images, apart from running them."""

from typing import Annotated

import typer

from harness.contract import DeviceKind, unknown
from orchestrator.cli import options
from orchestrator.errors import BadManifest, CommandExit
from orchestrator.images.catalog import Image, ImageCatalog
from orchestrator.installation import shipped_images

app = typer.Typer(help="List, build, lock and check images.", no_args_is_help=True)

Names = Annotated[list[str] | None, typer.Argument(help="Images; all that run on the device if left out.")]
Device = Annotated[DeviceKind, typer.Option("--device", "-d", help="Whose lock to use.")]

Record = Annotated[bool, typer.Option("--record", help="Write the base image's Debian packages to its lock.json.")]


@app.command("list")
def list_images() -> None:
    """Show every image and what it offers."""
    for image in _catalog().images.values():
        description = image.description
        typer.echo(f"{image.name}: {description.summary}")
        for kind, names in (
            ("method", [one.name for one in description.methods]),
            ("backend", [one.name for one in description.backends]),
            ("task", [one.name for one in image.tasks]),
            ("data set", [one.name for one in description.datasets]),
        ):
            if names:
                typer.echo(f"    {kind}: {', '.join(names)}")


@app.command()
def base(
    force: Annotated[bool, typer.Option("--force", help="Make it again although it is there.")] = False,
    record: Record = False,
) -> None:
    """Make the base image: from a registry where one is reachable, else with debootstrap."""
    from orchestrator.images.base_image import build_base
    from orchestrator.images.builds import building
    from orchestrator.images.engine import connect

    with building(_note):
        build_base(connect(), shipped_images(), _note, force=force, record=record)


@app.command()
def build(
    names: Names = None,
    device: Device = DeviceKind.CPU,
    record: Record = False,
    force: Annotated[bool, typer.Option("--force", help="Build without the builder's cache.")] = False,
) -> None:
    """Build images. Says where the base image differs from its record."""
    from orchestrator.images.builds import build_image
    from orchestrator.images.engine import connect
    from orchestrator.images.pruning import name_images

    client = connect()
    for image in _chosen(names, device):
        typer.echo(f"{image.name} {build_image(client, image, device, _note, force=force, record=record)}")
        name_images(image, device)


@app.command()
def lock(
    names: Names = None,
    device: Device = DeviceKind.CPU,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Take newer versions where the requirements allow.")
    ] = False,
) -> None:
    """Resolve the requirements of images into hash-pinned locks."""
    from orchestrator.images.locking import lock_image

    for image in {chosen.layers[-1].name: chosen.layers[-1] for chosen in _chosen(names, device)}.values():
        typer.echo(lock_image(image, device, upgrade=upgrade))


@app.command()
def check(
    names: Names = None,
    device: Device = DeviceKind.CPU,
    runtime: options.Runtime = "auto",
    store: options.Store = options.DEFAULT_STORE,
) -> None:
    """Run the contract's conformance checks against images. Exits with 3 when one fails."""
    from orchestrator.checks.conformance import check_image
    from orchestrator.run.setup import named_runtime
    from orchestrator.store import Store

    chosen, reason = named_runtime(runtime, Store(store).root)
    _note(f"runtime: {chosen.name.value}: {reason}")
    failed = False
    for image in _chosen(names, device):
        chosen.prepare(image, device, _note)
        for one in check_image(chosen, image, device):
            typer.echo(f"{image.name}: {'pass' if one.passed else 'FAIL'}: {one.name}: {one.message}")
            failed = failed or not one.passed
    if failed:
        raise typer.Exit(CommandExit.INCOMPLETE)


def _catalog() -> ImageCatalog:
    return ImageCatalog(shipped_images())


def _chosen(names: list[str] | None, device: DeviceKind) -> list[Image]:
    """The named images, or every image that does something on the device."""
    images = _catalog().images
    for name in names or []:
        if name not in images:
            raise BadManifest(unknown("image", name, images), hint="`orchestrator images list` has all")
    if names:
        return [images[name] for name in names]
    return [image for image in images.values() if image.description.operations and device in image.description.devices]


def _note(message: str) -> None:
    typer.echo(message, err=True)
