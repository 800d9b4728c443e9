"""All commands in one place. Each command's module holds what it does."""

import gc
from typing import Annotated

import typer

from harness.contract import CONTRACT_VERSION
from orchestrator.cli.artifact import app as artifact
from orchestrator.cli.backends import app as backends
from orchestrator.cli.deciding import recommend
from orchestrator.cli.exchanging import export, import_results
from orchestrator.cli.images import app as images
from orchestrator.cli.inspection import clean, doctor, paper, report, status
from orchestrator.cli.manifest import app as manifest
from orchestrator.cli.measuring import bench, run, run_stage
from orchestrator.cli.planning import plan
from orchestrator.cli.racing import race
from orchestrator.cli.scoring import agreement, claims, compare, score
from orchestrator.cli.serving import serve
from orchestrator.cli.store import app as store
from orchestrator.cli.support import support
from orchestrator.installation import DISTRIBUTION, installed_version

_OBJECTS_BETWEEN_COLLECTIONS = 50_000
"""What a command reads stays to its end: looking for garbage in it as often as usual takes a tenth of the time."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        known = installed_version() or "of no installed version"
        typer.echo(f"{DISTRIBUTION} {known} (contract {CONTRACT_VERSION})")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the versions and exit.")
    ] = False,
) -> None:
    """Decides, with measurements, which LLM compression method to use."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


app.add_typer(images, name="images")
app.add_typer(backends, name="backends")
app.add_typer(manifest, name="manifest")
app.add_typer(store, name="store")
app.add_typer(artifact, name="artifact")
app.command()(bench)
app.command()(run)
app.command(name="run-stage")(run_stage)
app.command()(plan)
app.command()(status)
app.command()(report)
app.command()(serve)
app.command()(recommend)
app.command()(race)
app.command()(score)
app.command()(compare)
app.command()(agreement)
app.command()(claims)
app.command()(export)
app.command(name="import")(import_results)
app.command()(paper)
app.command()(support)
app.command()(doctor)
app.command()(clean)
