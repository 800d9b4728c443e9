"""`export` and `import`: figures in the forms of other programs, and those of others beside a run."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from orchestrator.cli import options
from orchestrator.cli.scoring import RunName
from orchestrator.errors import BadManifest

if TYPE_CHECKING:
    from orchestrator.exchange.hub import Source

Given = TypeVar("Given")

FORMS_HELP = "lm-eval: lm-evaluation-harness's results and samples; hub: .eval_results; mlflow: a run a variant."


class ExportForm(StrEnum):
    LM_EVAL = "lm-eval"
    HUB = "hub"
    MLFLOW = "mlflow"


def export(
    run: RunName = "last",
    form: Annotated[ExportForm, typer.Option("--format", "-f", help=FORMS_HELP)] = ExportForm.LM_EVAL,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write lm-eval and hub to.")] = None,
    source_url: Annotated[
        str | None, typer.Option("--source-url", help="Where the evidence lies for readers of the Hub's page.")
    ] = None,
    source_name: Annotated[str | None, typer.Option("--source-name", help="What that is called there.")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Where MLflow keeps its runs: sqlite:///mlflow.db.")
    ] = None,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
) -> None:
    """Write what a run measured for other programs, from what is stored. Prints the files, or the MLflow runs.

    docs/exchange.md says what each field holds, and what has no place in the form.
    """
    from orchestrator.evidence.reading import read_evidence
    from orchestrator.evidence.resampling import Resampling
    from orchestrator.exchange.mlflow_runs import export_mlflow
    from orchestrator.exchange.writing import export_hub, export_lm_eval

    folder = Path() if form is ExportForm.MLFLOW else _needed(output, "there is no folder to write to", "--output")
    source = _source(source_url, source_name)
    record, opened, whole = options.open_run(store, run)
    catalog = options.catalog(more_images)
    resampling = None if form is ExportForm.LM_EVAL else Resampling()
    evidence = read_evidence(record, opened, catalog, resampling)
    if form is ExportForm.LM_EVAL:
        exported = export_lm_eval(record, evidence, opened, catalog, folder)
    elif form is ExportForm.HUB:
        exported = export_hub(record, evidence, catalog, folder, source)
    else:
        uri = _needed(tracking_uri, "nothing says where MLflow keeps its runs", "--tracking-uri")
        exported = export_mlflow(record, evidence, opened, uri)
    for one in exported.written:
        typer.echo(one)
    for reason in exported.left_out:
        typer.echo(f"left out: {reason}", err=True)
    options.ends(whole=whole)


def import_results(
    file: Annotated[Path, typer.Argument(help="A results_*.json of lm-evaluation-harness.")],
    into: Annotated[
        str, typer.Option("--into", help="The run to show it beside: a name, the beginning of it, or 'last'.")
    ] = "last",
    name: Annotated[str | None, typer.Option("--name", help="What to call the model, if not as the file does.")] = None,
    store: options.Store = options.DEFAULT_STORE,
) -> None:
    """Show somebody else's figures beside a run, in a table of their own.

    They are marked as not measured here, and enter no overall metric, comparison, claim or recommendation.
    """
    from orchestrator.exchange.importing import read_lm_eval
    from orchestrator.store import now

    results = read_lm_eval(file, now(), name)
    record, opened, whole = options.open_run(store, into)
    with opened.in_use():
        kept = opened.imported.keep(record.run, results)
    typer.echo(f"{len(results.figures)} figures of {results.name}, not measured here, stand beside {record.run}")
    typer.echo(f"to forget them, delete {kept}", err=True)
    options.ends(whole=whole)


def _needed(given: Given | None, problem: str, option: str) -> Given:
    if given is None:
        raise BadManifest(problem, hint=f"name it with {option}")
    return given


def _source(url: str | None, name: str | None) -> "Source | None":
    from orchestrator.exchange.hub import Source

    if url is None:
        if name is not None:
            raise BadManifest("a source has a name and no address", hint="give --source-url as well")
        return None
    return Source(url, name)
