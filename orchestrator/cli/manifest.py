"""`manifest pin | show | schema`: looking after a manifest, apart from running it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import options
from orchestrator.errors import CommandExit
from orchestrator.installation import find_manifest
from orchestrator.manifest import Manifest, hub_source, read_manifest

app = typer.Typer(help="Pin the models of a manifest, show what it says, or what any may say.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="The manifest.")]


@app.command()
def pin(
    manifest: File,
    update: Annotated[bool, typer.Option("--update", help="Also move commits that are pinned already.")] = False,
) -> None:
    """Ask the hub for the commit of every model that names none, and write it into the file.

    Comments and all else in the file stay as they are. Exits with 3 when a model could not be pinned.
    """
    from orchestrator.manifest.hub import current_commit
    from orchestrator.manifest.pinning import Change, pin_manifest

    outcomes = pin_manifest(manifest, current_commit, update=update)
    for outcome in outcomes:
        reason = f": {outcome.reason}" if outcome.reason else ""
        where = "" if outcome.file == manifest else f"  in {outcome.file}"
        typer.echo(f"{outcome.change.value:8} {outcome.model}  {outcome.source}{where}{reason}")
    if not outcomes:
        typer.echo(f"{manifest} names no model of the hub, so there is nothing to pin")
    if any(outcome.change is Change.FAILED for outcome in outcomes):
        raise typer.Exit(CommandExit.INCOMPLETE)


@app.command()
def show(manifest: File, as_json: options.Json = False) -> None:
    """Show what a manifest says once every default is filled in, and which of its models are not pinned."""
    read = read_manifest(find_manifest(manifest))
    if as_json:
        document = {"manifest": read.model_dump(mode="json"), "digest": read.digest, "unpinned": _unpinned(read)}
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    typer.echo(f"{read.name}  {read.digest[:8]}")
    for model in read.models:
        note = "  not pinned" if model.name in _unpinned(read) else ""
        typer.echo(f"  model    {model.name}  {model.source}  family {model.family or model.name}{note}")
    for entry in read.compress:
        options_text = ", ".join(f"{name}={value}" for name, value in entry.options.items())
        typer.echo(
            f"  compress {entry.name or entry.method} {entry.setting or 'default setting'}  {options_text}".rstrip()
        )
    evaluated = f"{', '.join(read.evaluate.tasks)} by {', '.join(read.evaluate.engine)}" if read.evaluate else "nothing"
    typer.echo(f"  evaluate {evaluated}")
    scoring = read.scoring
    replaced = [f"{task} for {name}" for name, task in scoring.tasks.items()]
    chosen = [*replaced, f"truthfulness {scoring.truthfulness}"]
    if scoring.generalization is not None:
        chosen.append(f"generalization {scoring.generalization}")
    typer.echo(f"  scoring  {', '.join(chosen)}")
    for excluded in read.exclude:
        typer.echo(f"  {excluded.words}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of manifests, by which an editor completes one and marks mistakes."""
    from orchestrator.manifest.schema import PATH

    typer.echo(PATH.read_text(encoding="utf-8"), nl=False)


def _unpinned(manifest: Manifest) -> list[str]:
    return [one.name for one in manifest.models if (found := hub_source(one.source)) and found.commit is None]
