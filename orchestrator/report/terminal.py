"""The summary that a finished run prints: the six metrics of each variant, what is missing and why, what was noted."""

import io

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator.report.fidelity import reading as fidelity_reading
from orchestrator.report.model import RunReport
from orchestrator.report.table import Cell, Table
from orchestrator.report.view import View, view

_PLAIN_WIDTH = 120


def summary_table(report: RunReport) -> RenderableType:
    """For a rich console. Strings are never read as markup."""
    return _summary(view(report), box.ROUNDED)


def summary_text(report: RunReport, *, width: int = _PLAIN_WIDTH) -> str:
    """The same as plain text, `width` characters wide: no colour, no control codes."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(_summary(view(report), box.ASCII))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _summary(content: View, lines: box.Box) -> RenderableType:
    blocks: list[RenderableType] = [plain_text(" ".join(content.summary)), rich_table(content.overview, lines)]
    blocks += [plain_text(line, style="dim") for line in (content.reading, *content.columns)]
    shown = (content.overview, *content.fidelity, *content.paper)
    used = {cell.note for table in shown for row in table.rows for cell in row}
    blocks += [plain_text(f"[{number}] {reason}") for number, reason in content.footnotes if number in used]
    blocks += [plain_text(f"warning: {warning}", style="yellow") for warning in content.warnings]
    for table in content.fidelity:
        blocks += [rich_table(table, lines)]
    blocks += [plain_text(fidelity_reading(content.fidelity), style="dim")] if content.fidelity else []
    for table in content.paper:
        blocks += [rich_table(table, lines)]
    blocks += [plain_text(content.verdicts, style="dim")] if content.verdicts else []
    notes = [note for track in content.tracks for note in track.notes]
    if notes:
        blocks += [Text(), plain_text("Notes", style="bold"), *(plain_text(f"- {note}") for note in notes)]
    if content.missing:
        blocks += [Text(), plain_text("What is missing, and why", style="bold")]
        blocks += [plain_text(f"- {entry}") for entry in content.missing]
    if content.remarks:
        blocks += [Text(), plain_text("What the workers noted", style="bold")]
        blocks += [plain_text(f"- {entry}") for entry in content.remarks]
    return Group(*blocks, plain_text(f"Results: {content.report.results_path}"))


def rich_table(table: Table, lines: box.Box) -> RichTable:
    """Intervals stand below their figures: six columns of both side by side are too wide for a terminal."""
    made = RichTable(title=table.title, box=lines, title_justify="left")
    for index, column in enumerate(table.columns):
        style = "bold" if index < table.headings else None
        made.add_column(plain_text(column.title), justify="right" if column.is_number else "left", style=style)
    for row in table.rows:
        made.add_row(*(_cell(cell) for cell in row))
    return made


def _cell(cell: Cell) -> Text:
    return Text("\n").join((plain_text(cell.figure), *(plain_text(text, style="dim") for text in cell.below)))


def plain_text(text: str, style: str = "") -> Text:
    """Without line breaks and control characters, which a name or an error message may hold."""
    return Text("".join(letter if letter.isprintable() else " " for letter in text), style=style)
