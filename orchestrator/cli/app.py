"""All commands in one place. Each command's module holds what it does."""

import typer

from orchestrator.cli import images, inspection, measuring

app = typer.Typer(
    help="Decides, with measurements, which LLM compression method to use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)
app.add_typer(images.app, name="images")
app.command()(measuring.bench)
app.command()(measuring.run)
app.command()(measuring.plan)
app.command()(inspection.status)
app.command()(inspection.report)
app.command()(inspection.paper)
app.command()(inspection.doctor)
app.command()(inspection.clean)
