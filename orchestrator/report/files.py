"""A report's files: one a format, beside the run's record or wherever the user wants them."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.report.bars import charts
from orchestrator.report.model import RunReport
from orchestrator.report.pages import render_html, render_markdown, render_svg

FORMATS = {"markdown": "report.md", "html": "report.html", "json": "report.json", "svg": "figure-NAME.svg"}
"""The file of each format; `svg` has one for each chart that the run has values of, and none otherwise."""

SINGLE = ("markdown", "html", "json")
"""Those that are one file, and so can go to stdout."""
_RENDERERS: dict[str, Callable[[RunReport], str]] = {
    "markdown": render_markdown,
    "html": render_html,
    "json": lambda one: one.model_dump_json(indent=1) + "\n",
}


def render(report: RunReport, form: str) -> str:
    """The report in one of `FORMATS` that are one file each: all but `svg`."""
    return _RENDERERS[form](report)


def write_reports(report: RunReport, folder: Path, formats: Iterable[str] = FORMATS) -> tuple[Path, ...]:
    """Write the report in each format, and return the files.

    Raises:
        StoreError: the folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for form in formats:
            for name, text in _files(report, form):
                path = folder / name
                path.write_text(text, encoding="utf-8")
                written.append(path)
    except OSError as failure:
        raise StoreError(
            f"the report cannot be written to {folder}: {failure}", hint="name another folder with --output"
        ) from failure
    return tuple(written)


def _files(report: RunReport, form: str) -> Iterator[tuple[str, str]]:
    if form in _RENDERERS:
        yield FORMATS[form], render(report, form)
        return
    for chart in charts(report):
        yield FORMATS[form].replace("NAME", chart.name), render_svg(chart)
