"""All commands in one place. Each command's module holds what it does."""

import typer

from orchestrator.cli.agreement import agreement
from orchestrator.cli.backends import app as backends
from orchestrator.cli.images import app as images
from orchestrator.cli.inspection import clean, doctor, paper, report, status
from orchestrator.cli.manifest import app as manifest
from orchestrator.cli.measuring import bench, plan, run
from orchestrator.cli.scoring import compare, score
from orchestrator.cli.support import support

app = typer.Typer(
    help="Decides, with measurements, which LLM compression method to use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)
app.add_typer(images, name="images")
app.add_typer(backends, name="backends")
app.add_typer(manifest, name="manifest")
app.command()(bench)
app.command()(run)
app.command()(plan)
app.command()(status)
app.command()(report)
app.command()(score)
app.command()(compare)
app.command()(agreement)
app.command()(paper)
app.command()(support)
app.command()(doctor)
app.command()(clean)
