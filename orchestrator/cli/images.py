"""`images list | base | build | lock | check | sbom | new`: looking after the images, apart from running them."""

import json
from pathlib import Path
from typing import Annotated

import typer

from harness.contract import DeviceKind, unknown
from orchestrator.cli import options
from orchestrator.errors import BadManifest, CommandExit
from orchestrator.host.files import write_atomically
from orchestrator.images.image import Image
from orchestrator.images.scaffold import Kind, Language, write_image
from orchestrator.installation import shipped_images

app = typer.Typer(help="List, build, lock, check and write images.", no_args_is_help=True)

_WORDS = {True: "pass", False: "FAIL", None: "not checked"}

Names = Annotated[list[str] | None, typer.Argument(help="Images; all that run on the device if left out.")]
Device = Annotated[DeviceKind, typer.Option("--device", "-d", help="Whose lock to use.")]

Record = Annotated[bool, typer.Option("--record", help="Write the base image's Debian packages to its lock.json.")]


@app.command("list")
def list_images(more_images: options.Images = None, as_json: options.Json = False) -> None:
    """Show every image and what it offers."""
    images = options.catalog(more_images).images.values()
    if as_json:
        document = [image.description.model_dump(mode="json") | {"folder": str(image.folder)} for image in images]
        typer.echo(json.dumps({"images": document}, indent=1, ensure_ascii=False))
        return
    for image in images:
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
    more_images: options.Images = None,
) -> None:
    """Build images. Says where the base image differs from its record."""
    from orchestrator.images.builds import build_image
    from orchestrator.images.engine import connect, image_id
    from orchestrator.images.inputs import image_tag
    from orchestrator.images.pruning import name_images

    client = connect()
    for image in _chosen(names, device, more_images):
        built = build_image(client, image, device, _note, force=force, record=record)
        typer.echo(f"{image.name} {image_id(client, image_tag(built, device))}")
        name_images(built, device)


@app.command()
def lock(
    names: Names = None,
    device: Device = DeviceKind.CPU,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Take newer versions where the requirements allow.")
    ] = False,
    more_images: options.Images = None,
) -> None:
    """Resolve the requirements of images into hash-pinned locks."""
    from orchestrator.images.locking import lock_image

    for image in {chosen.layers[-1].name: chosen.layers[-1] for chosen in _chosen(names, device, more_images)}.values():
        typer.echo(lock_image(image, device, upgrade=upgrade))


@app.command("install-lock", hidden=True)
def install_lock(
    lock: Annotated[Path, typer.Argument(help="Hash-pinned requirements.")],
) -> None:
    """Install pinned requirements into the environment of this command, by the rule for torch that images keep."""
    from orchestrator.images.image import torch_cuda_lock
    from orchestrator.images.installing import install_file

    install_file(lock, torch_cuda_lock(shipped_images()), _note)


@app.command()
def check(
    names: Names = None,
    device: Device = DeviceKind.CPU,
    runtime: options.Runtime = "auto",
    evaluate: Annotated[
        bool, typer.Option(help="Also evaluate what methods make, which needs the image that evaluates.")
    ] = True,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
) -> None:
    """Hold images to the contract, and use what they offer on a tiny model. Exits with 3 when something fails."""
    from orchestrator.checks.checking import CHECKED_NAME, check_and_use
    from orchestrator.run.setup import named_runtime
    from orchestrator.store import Store

    root = Store(store).root
    chosen, reason = named_runtime(runtime, root)
    _note(f"runtime: {chosen.name.value}: {reason}")
    evaluating = options.catalog(more_images) if evaluate else None
    failed = []
    for image in _chosen(names, device, more_images):
        for one in check_and_use(chosen, image, device, evaluating, root, _note):
            typer.echo(f"{image.name}: {_WORDS[one.passed]}: {one.name}: {one.message}")
            failed += [image.name] if one.passed is False else []
    for name in dict.fromkeys(failed):
        _note(f"{name}: what its workers saw and said is in {root / CHECKED_NAME / name}")
    if failed:
        raise typer.Exit(CommandExit.INCOMPLETE)


@app.command()
def sbom(
    names: Annotated[list[str] | None, typer.Argument(help="Images; all that do something if left out.")] = None,
    device: Annotated[DeviceKind | None, typer.Option("--device", "-d", help="Of one device; else of all.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a file into this folder instead.")
    ] = None,
    more_images: options.Images = None,
) -> None:
    """Say what images are made of, as CycloneDX: Python packages with hashes, Debian packages, models, data sets.

    Example: orchestrator images sbom gptq --device cpu
    """
    from orchestrator.images.sbom import bill_of_materials

    if device is None:
        chosen = [(image, kind) for image in _named(names, more_images) for kind in image.description.devices]
    else:
        chosen = [(image, device) for image in _chosen(names, device, more_images)]
    document = bill_of_materials(chosen)
    text = json.dumps(document, indent=1, ensure_ascii=False)
    if output is None:
        typer.echo(text)
        return
    output.mkdir(parents=True, exist_ok=True)
    version = document["metadata"]["component"]["version"]
    path = output / f"llmcbench-{version}-sbom.cdx.json"
    write_atomically(path, text + "\n")
    typer.echo(path)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What the image, and the method or backend in it, is called.")],
    kind: Annotated[Kind, typer.Option("--kind", help="What it offers.")],
    language: Annotated[Language, typer.Option("--language", help="What it is written in.")] = Language.PYTHON,
    into: Annotated[Path, typer.Option("--into", help="The folder around it.")] = Path("my-images"),
) -> None:
    """Write the folder of a new image that works as it stands, to be changed from there. Prints its path.

    Example: orchestrator images new shrink --kind method && orchestrator images check shrink --images my-images
    """
    typer.echo(write_image(name, kind, language, into))


def _chosen(names: list[str] | None, device: DeviceKind, more_images: list[Path] | None) -> list[Image]:
    """The named images, or every image that does something on the device."""
    found = _named(names, more_images)
    for image in found if names else ():
        if device not in image.description.devices:
            kinds = " and ".join(image.description.devices)
            raise BadManifest(
                f"image {image.name!r} is for {kinds}, not for {device.value}", hint="name it with --device"
            )
    return [image for image in found if device in image.description.devices]


def _named(names: list[str] | None, more_images: list[Path] | None) -> list[Image]:
    """The named images, or every image that does something."""
    images = options.catalog(more_images).images
    for name in names or []:
        if name not in images:
            raise BadManifest(unknown("image", name, images), hint="`orchestrator images list` has all")
    return [images[name] for name in names] if names else [one for one in images.values() if one.description.operations]


def _note(message: str) -> None:
    typer.echo(message, err=True)
