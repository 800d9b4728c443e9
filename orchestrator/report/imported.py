"""Figures of others as a table of its own, each row marked."""

from collections.abc import Iterable

from orchestrator.report.formats import MISSING
from orchestrator.report.table import Table, cells, columns
from orchestrator.store.imported import Imported, ImportedFigure

TITLE = "Imported, not measured here"
READING = "Figures of others stand by themselves: in no overall metric, no difference, no claim and no recommendation."


def imported_table(results: Iterable[Imported]) -> Table:
    """One row a figure; there is none where nothing was imported."""
    rows = tuple(
        (
            *cells(one.name, figure.task),
            *cells(_metric(figure), f"{figure.value:.6g}", _error(figure)),
            *cells(*_how(figure), f"not measured here: {_origin(one)}"),
        )
        for one in results
        for figure in one.figures
    )
    titles = (*columns("Model", "Task", "Metric"), *columns(numbers=("Value", "Standard error", "Shots", "Items")))
    return Table(TITLE, (*titles, *columns("Protocol", "Where from")), rows, headings=2)


def _metric(figure: ImportedFigure) -> str:
    return figure.metric if figure.filter == "none" else f"{figure.metric} by {figure.filter}"


def _error(figure: ImportedFigure) -> str:
    return MISSING if figure.standard_error is None else f"{figure.standard_error:.3g}"


def _how(figure: ImportedFigure) -> tuple[str, str, str]:
    items = MISSING if figure.items is None else str(figure.items)
    if figure.items_available not in (None, figure.items):
        items += f" of {figure.items_available}"
    return MISSING if figure.shots is None else str(figure.shots), items, figure.protocol or "not said"


def _origin(one: Imported) -> str:
    tool = one.tool if one.tool_version is None else f"{one.tool} {one.tool_version}"
    when = "" if one.evaluated is None else f", {one.evaluated:%Y-%m-%d}"
    return f"{tool}{when}, {one.file_name}"
