"""A report's files: one a format, beside the run's record or wherever the user wants them."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.host.files import write_atomically
from orchestrator.report.bars import charts
from orchestrator.report.latex import render_latex
from orchestrator.report.leaderboard import Leaderboard, leaderboard_html, leaderboard_latex, leaderboard_markdown
from orchestrator.report.model import RunReport
from orchestrator.report.pages import render_html, render_markdown, render_svg
from orchestrator.report.records import render_csv, render_parquet
from orchestrator.report.view import View, view

FORMATS = {
    "markdown": "report.md",
    "html": "report.html",
    "json": "report.json",
    "svg": "figure-NAME.svg",
    "latex": "report.tex",
    "csv": "report.csv",
    "parquet": "report.parquet",
}
"""The file of each format; `svg` has one for each chart that the run has values of, and none otherwise."""

SINGLE = ("markdown", "html", "json", "latex", "csv")
"""Those that are one text, and so can go to stdout."""
USUAL = ("markdown", "html", "json", "svg")
"""Those that a run writes by itself."""
OF_SEVERAL = ("html", "markdown", "json", "latex", "csv", "parquet")
"""Those that several runs can be written in together."""
_RENDERERS: dict[str, Callable[[RunReport, Callable[[], View]], str]] = {
    "markdown": lambda one, content: render_markdown(one, content()),
    "html": lambda one, content: render_html(one, content()),
    "json": lambda one, _: one.model_dump_json(indent=1) + "\n",
    "latex": lambda one, content: render_latex(one, content()),
    "csv": lambda one, _: render_csv((one,)),
}


def render(report: RunReport, form: str) -> str:
    """The report in one of `SINGLE`."""
    return _RENDERERS[form](report, lambda: view(report))


def read_report(path: Path) -> RunReport:
    """A report that `report --format json` wrote, here or on another machine.

    Raises:
        StoreError: it cannot be read, or is no such document.
    """
    try:
        return RunReport.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as failure:
        why = failure.strerror if isinstance(failure, OSError) else "not a report of this version"
        raise StoreError(f"{path} cannot be read: {why}", hint="write it again with --format json") from failure


def write_reports(report: RunReport, folder: Path, formats: Iterable[str] = USUAL) -> tuple[Path, ...]:
    """Write the report in each format, and return the files.

    Raises:
        StoreError: the folder cannot be written, or what writes a format is not installed.
    """
    content = cache(lambda: view(report))
    return _write((file for form in formats for file in _files(report, form, content)), folder)


def write_leaderboard(reports: tuple[RunReport, ...], folder: Path, formats: Iterable[str]) -> tuple[Path, ...]:
    """The same of several runs together, in formats of `OF_SEVERAL`."""
    board = Leaderboard(reports=reports)
    renderers: dict[str, Callable[[], str | bytes]] = {
        "html": lambda: leaderboard_html(board),
        "markdown": lambda: leaderboard_markdown(board),
        "json": lambda: board.model_dump_json(indent=1) + "\n",
        "latex": lambda: leaderboard_latex(board),
        "csv": lambda: render_csv(reports),
        "parquet": lambda: render_parquet(reports),
    }
    return _write(((FORMATS[form].replace("report", "leaderboard"), renderers[form]()) for form in formats), folder)


def _write(files: Iterable[tuple[str, str | bytes]], folder: Path) -> tuple[Path, ...]:
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files:
            path = folder / name
            write_atomically(path, content)
            written.append(path)
    except OSError as failure:
        raise StoreError(
            f"the report cannot be written to {folder}: {failure}", hint="name another folder with --output"
        ) from failure
    return tuple(written)


def _files(report: RunReport, form: str, content: Callable[[], View]) -> Iterator[tuple[str, str | bytes]]:
    if form in _RENDERERS:
        yield FORMATS[form], _RENDERERS[form](report, content)
        return
    if form == "parquet":
        yield FORMATS[form], render_parquet((report,))
        return
    for chart in charts(report):
        yield FORMATS[form].replace("NAME", chart.name), render_svg(chart)
