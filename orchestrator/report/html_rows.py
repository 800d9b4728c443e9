"""The rows of a table in HTML: of a large run hundreds of thousands of cells, for which a template takes minutes."""

from collections.abc import Iterator

from markupsafe import Markup, escape

from orchestrator.report.table import Cell, Table

_MARKED = ("failed", "unsupported", "skipped")
"""Texts that the style sheet colours."""


def html_rows(table: Table) -> Markup:
    """All of the table's body, every string of it escaped, without a letter that it can do without."""
    return Markup("".join(_row(table, row) for row in table.rows))  # noqa: S704  `_cell` escapes


def _row(table: Table, row: tuple[Cell, ...]) -> str:
    return f"<tr>{''.join(_cells(table, row))}</tr>\n"


def _cells(table: Table, row: tuple[Cell, ...]) -> Iterator[str]:
    for place, (column, content) in enumerate(zip(table.columns, row, strict=True)):
        if place < table.headings:
            yield f'<th scope="row">{_cell(content)}</th>' if content.text else '<td class="heading"></td>'
        elif column.is_number:
            yield f'<td class="n">{_cell(content)}</td>'
        elif content.text in _MARKED:
            yield f'<td class="{content.text}">{_cell(content)}</td>'
        else:
            yield f"<td>{_cell(content)}</td>"


def _cell(content: Cell) -> str:
    shown, note = str(escape(content.text)), content.note
    if content.full:
        shown = f'<code title="{escape(content.full)}">{shown}</code>'
    elif content.is_missing and note is not None:
        shown = f'<a class="why" href="#note-{note}">{shown}</a>'
    if note is not None and not content.is_missing:
        shown += f'<sup><a class="why" href="#note-{note}">{note}</a></sup>'
    return shown + "".join(f" <small>{escape(text)}</small>" for text in content.below)
