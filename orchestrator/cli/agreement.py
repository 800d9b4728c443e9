"""`agreement`: how far accuracies as deployed agree with the reference's. Reads what is stored, runs nothing."""

from typing import Annotated

import typer
from rich.console import Console

from orchestrator.cli import options

LOG_WIDTH = 200
"""Columns where there is no terminal to ask: log-likelihoods stand beside one another."""


def agreement(
    run: Annotated[str, typer.Argument(help="A run's name, the beginning of it, or 'last'.")] = "last",
    items: Annotated[int, typer.Option("--items", min=0, help="Differing items to list of each task.")] = 20,
    store: options.Store = options.DEFAULT_STORE,
    as_json: options.Json = False,
) -> None:
    """Show how a backend's picks and log-likelihoods differ from the reference's, item by item.

    For runs whose manifest lists several engines under `evaluate`, such as manifests/deployed.yaml.
    """
    from orchestrator.evidence.reading import stored_results
    from orchestrator.report.answers import agreement_blocks
    from orchestrator.score.agreement import run_agreement

    record, opened, whole = options.open_run(store, run)
    document = run_agreement(record, stored_results(record, opened), opened)
    if as_json:
        typer.echo(document.model_dump_json(indent=1))
    elif not document.tasks:
        typer.echo(f"{record.run} evaluates by one engine alone: there is nothing to compare")
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = LOG_WIDTH
        for block in agreement_blocks(document, items):
            console.print(block)
    options.ends(whole=whole)
