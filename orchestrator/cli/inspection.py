"""`status`, `report`, `paper`, `doctor`, `clean`: looking at what there is. Nothing here runs a stage."""

import json
from collections import Counter
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from harness.contract import unknown
from orchestrator.cli import options
from orchestrator.errors import BadManifest, CommandExit, RuntimeUnavailable
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import shipped_images
from orchestrator.store import RunRecord, Store, history
from orchestrator.tracks import Mode

if TYPE_CHECKING:
    from orchestrator.report import RunReport

STDOUT = Path("-")


def status(
    run: Annotated[
        str, typer.Argument(help="A run's name, the beginning of it, or 'last'; all runs if left out.")
    ] = "",
    store: options.Store = options.DEFAULT_STORE,
    as_json: options.Json = False,
) -> None:
    """Show how far runs came, in the order in which they were begun. Exits with 3 where something cannot be read."""
    if run:
        found, _, whole = options.open_run(store, run)
        records: tuple[RunRecord, ...] = (found,)
    else:
        records, unreadable = history.all_runs(Store(store))
        whole = not options.warn(unreadable)
    if as_json:
        typer.echo(json.dumps([record.model_dump(mode="json") for record in records], ensure_ascii=False))
    elif not records and whole:
        typer.echo(f"no runs yet in {store}")
    else:
        for record in records:
            _print_run(record, details=bool(run))
    options.ends(whole=whole)


def _print_run(record: RunRecord, *, details: bool) -> None:
    counts = Counter(state.status.value for state in record.stages.values())
    summary = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    how = "" if record.ended else "  interrupted" if record.interrupted else "  not ended"
    typer.echo(f"{record.run}  {record.updated:%Y-%m-%d %H:%M} UTC  {record.runtime}  {summary}{how}")
    if not details:
        return
    for fact, value in record.facts.model_dump(mode="json").items():
        for line in [f"{name}: {one}" for name, one in value.items()] if isinstance(value, dict) else [value]:
            if line is not None:
                typer.echo(f"  {fact.replace('_', ' '):15} {line}")
    for name, state in record.stages.items():
        reason = f"  {state.failure.message}" if state.failure else ""
        typer.echo(f"  {state.status.value:11} {name}{reason}")


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="A run's name, the beginning of it, or 'last'; of several, report.json files of other machines among "
            "them, one leaderboard is made."
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option("--format", "-f", help="markdown, html, json, svg, latex, csv, parquet; several with commas."),
    ] = "markdown,html,svg",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to; the run's own. - is stdout.")
    ] = None,
    mode: Annotated[Mode, typer.Option("--mode", help="How the generalization metric averages.")] = Mode.PAPER,
    questions: Annotated[
        bool,
        typer.Option(help="Quote a few items that compressed models pick otherwise than dense; else numbers alone."),
    ] = True,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
) -> None:
    """Write a run's report from what is stored. Prints the paths of the files, or with `-o -` one format's text.

    Example: orchestrator report last ../other-machine/report.json --format html,csv -o leaderboard
    """
    from orchestrator.report.building import build_report
    from orchestrator.report.files import FORMATS, SINGLE, render, write_leaderboard, write_reports

    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    for name in wanted:
        if name not in FORMATS:
            raise BadManifest(unknown("report format", name, FORMATS), hint=f"use: {', '.join(FORMATS)}")
    to_stdout = output == STDOUT
    if to_stdout and (len(wanted) != 1 or wanted[0] not in SINGLE or len(runs or ()) > 1):
        raise BadManifest(
            "one report of one run at a time goes to stdout", hint=f"add --format and one of: {', '.join(SINGLE)}"
        )
    if runs and len(runs) > 1:
        several = _several(runs, store, options.catalog(more_images), mode, questions=questions)
        for path in write_leaderboard(several, _folder_of_several(output), _of_several(wanted)):
            typer.echo(path)
        return
    record, opened, whole = options.open_run(store, runs[0] if runs else "last")
    document = build_report(record, opened, options.catalog(more_images), mode, quoted=questions)
    folder = output or opened.runs.folder / record.run
    if to_stdout:
        typer.echo(render(document, wanted[0]), nl=False)
        options.ends(whole=whole)
        return
    for path in write_reports(document, folder, wanted):
        typer.echo(path)
    options.ends(whole=whole)


def _of_several(wanted: list[str]) -> list[str]:
    """Those of the formats that several runs have; what only one run has is left out of the default."""
    from orchestrator.report.files import OF_SEVERAL

    for name in wanted:
        if name not in OF_SEVERAL and name != "svg":
            raise BadManifest(f"several runs are not written as {name}", hint=f"use: {', '.join(OF_SEVERAL)}")
    return [name for name in wanted if name in OF_SEVERAL]


def _folder_of_several(output: Path | None) -> Path:
    if output is None:
        raise BadManifest("several runs have no folder of their own", hint="name one with --output")
    return output


def _several(
    runs: list[str], store: Path, catalog: ImageCatalog, mode: Mode, *, questions: bool
) -> "tuple[RunReport, ...]":
    from orchestrator.report.building import build_report
    from orchestrator.report.files import read_report

    reports = []
    for run in runs:
        if run.endswith(".json"):
            reports.append(read_report(Path(run)))
            continue
        record, opened, _ = options.open_run(store, run)
        reports.append(build_report(record, opened, catalog, mode, quoted=questions))
    names = [report.run_id for report in reports]
    for name in names:
        if names.count(name) > 1:
            raise BadManifest(f"the run {name} is named twice", hint="name each run once")
    return tuple(reports)


class PaperForm(StrEnum):
    """What `paper` prints: a table for a terminal, or the page docs/paper-audit.md."""

    TEXT = "text"
    MARKDOWN = "markdown"


def paper(
    form: Annotated[
        PaperForm, typer.Option("--format", "-f", help="text: a table; markdown: a page with all that is known.")
    ] = PaperForm.TEXT,
    as_json: options.Json = False,
) -> None:
    """Recompute every overall metric that the LLMCBench paper prints from its own tables, and judge each."""
    from orchestrator.report.paper_audit import audit_page
    from orchestrator.score.paper import suspicious_cells, suspicious_columns, verify

    if form is PaperForm.MARKDOWN and not as_json:
        typer.echo(audit_page(), nl=False)
        return
    rows, cells, columns = verify(), suspicious_cells(), suspicious_columns()
    if as_json:
        document = {
            "rows": [row.model_dump(mode="json") for row in rows],
            "suspicious_cells": [cell.model_dump(mode="json") for cell in cells],
            "suspicious_columns": [column.model_dump(mode="json") for column in columns],
        }
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    table = Table("track", "method", "setting", "published", "recomputed", "verdict")
    for row in rows:
        table.add_row(
            str(int(row.track)),
            row.method,
            row.setting or "",
            f"{row.published:.2f}",
            f"{row.recomputed:.2f}",
            row.verdict.value,
        )
    console = options.console()
    console.print(table)
    console.print("Table cells that other sources contradict:")
    for cell in cells:
        console.print(f"- {cell.reason}", markup=False, highlight=False)
    console.print("Columns of which the published code or the figures themselves say something else:")
    for column in columns:
        where = f"{column.table} {column.column} of {' and '.join(column.models)}"
        console.print(f"- {where}: {column.reason}", markup=False, highlight=False)


def doctor(
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    as_json: options.Json = False,
) -> None:
    """Check what this machine offers and say what is missing. Exits with 2 when nothing could be run."""
    from orchestrator.checks.machine import diagnose

    findings = diagnose(store, shipped_images(), *(more_images or []))
    if as_json:
        document = {"findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False))
    for finding in () if as_json else findings:
        typer.echo(f"{finding.symbol} {finding.subject}: {finding.message}")
        if finding.hint:
            typer.echo(f"    {finding.hint}")
    if any(finding.fatal for finding in findings):
        raise typer.Exit(CommandExit.BAD_REQUEST)


def clean(
    run: Annotated[str, typer.Option("--run", help="Forget this run first.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be removed.")] = False,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    as_json: options.Json = False,
) -> None:
    """Free what no run refers to (attempts of dead orchestrators, stages, checkpoints), and what nothing is run in.

    That is environments of no lock of the images, and images and steps of the builder's cache of no checkout of this
    host. Runs that cannot be read keep what they may refer to, until --run forgets them; then the exit status is 3.
    """
    from orchestrator.runtime.environments import ENVIRONMENTS_NAME, Environments
    from orchestrator.store.cleaning import clean as clean_store

    opened = Store(store)
    catalog = options.catalog(more_images)
    unused = Environments(opened.root / ENVIRONMENTS_NAME).unused(catalog.images.values())
    cleaned = clean_store(opened, drop_run=run or None, also=unused, dry_run=dry_run)
    removed = [(one.what, one.size_bytes) for one in cleaned.removed] + _prune_engine(dry_run=dry_run)
    total = sum(size_bytes for _, size_bytes in removed)
    if as_json:
        document = {
            "dry_run": dry_run,
            "removed": [{"what": what, "size_bytes": size_bytes} for what, size_bytes in removed],
            "freed_bytes": total,
            "unreadable": [one.message for one in cleaned.unreadable],
        }
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        for what, size_bytes in removed:
            typer.echo(f"{'would remove' if dry_run else 'removed'} {what}  {size_bytes / 2**20:.1f} MiB")
        typer.echo(f"{total / 2**20:.1f} MiB {'would be ' if dry_run else ''}freed")
    options.ends(whole=not options.warn(cleaned.unreadable))


def _prune_engine(*, dry_run: bool) -> list[tuple[str, int]]:
    """What was removed from the container engine; nothing where none answers."""
    from orchestrator.images.engine import connect
    from orchestrator.images.pruning import prune_images

    try:
        client = connect()
    except RuntimeUnavailable:
        return []
    return [(one.what, one.size_bytes) for one in prune_images(client, dry_run=dry_run)]
