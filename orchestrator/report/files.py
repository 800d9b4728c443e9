"""A report's files: one a format, beside the run's record or wherever the user wants them."""

from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.report.model import RunReport
from orchestrator.report.pages import render_html, render_markdown

FORMATS = {"markdown": "report.md", "html": "report.html", "json": "report.json"}
"""The file of each format."""

_RENDERERS: dict[str, Callable[[RunReport], str]] = {
    "markdown": render_markdown,
    "html": render_html,
    "json": lambda one: one.model_dump_json(indent=1) + "\n",
}


def render(report: RunReport, form: str) -> str:
    """The report in one of `FORMATS`."""
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
            path = folder / FORMATS[form]
            path.write_text(render(report, form), encoding="utf-8")
            written.append(path)
    except OSError as failure:
        raise StoreError(
            f"the report cannot be written to {folder}: {failure}", hint="name another folder with --output"
        ) from failure
    return tuple(written)
