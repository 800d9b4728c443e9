"""Several runs, also of several machines, as one page, one table, one data frame."""

from collections.abc import Iterator, Sequence
from typing import Literal

from harness.contract import Frozen
from orchestrator.report.absolute import absolute_table, candidates
from orchestrator.report.latex import document, latex_notes, latex_table
from orchestrator.report.latex import escape as escape_latex
from orchestrator.report.model import RunReport
from orchestrator.report.pages import escape, markdown_notes, markdown_table, render_page
from orchestrator.report.table import Footnotes, Table, cells, columns
from orchestrator.tracks import Place


class Leaderboard(Frozen):
    """The runs in the order that they were named in. Fields are only ever added."""

    schema_version: Literal[1] = 1
    reports: tuple[RunReport, ...]


def leaderboard_html(board: Leaderboard) -> str:
    """A complete document, with what an ordinary report's first section has, of all runs."""
    footnotes = Footnotes()
    found = candidates(board.reports)
    absolute = absolute_table(found, footnotes)
    return render_page(
        "leaderboard.html.j2",
        found,
        absolute=absolute,
        runs=runs_table(board),
        differing=tuple(differing_protocols(board.reports)),
        footnotes=footnotes.entries,
        view_candidates=found,
        parts=(("answer", "Answer"), ("absolute", "Figures"), ("runs", "Runs")),
    ).html


def leaderboard_markdown(board: Leaderboard) -> str:
    footnotes = Footnotes()
    found = candidates(board.reports)
    absolute = absolute_table(found, footnotes)
    blocks = [f"# Leaderboard of {len(board.reports)} runs", f"## {absolute.title}", *markdown_table(absolute)]
    blocks += [*map(escape, found.notes), *markdown_notes(footnotes.entries)]
    blocks += [f"Warning: {escape(line)}" for line in differing_protocols(board.reports)]
    blocks += ["## Runs", *markdown_table(runs_table(board))]
    return "\n\n".join(blocks) + "\n"


def leaderboard_latex(board: Leaderboard) -> str:
    """The same content and order as in Markdown."""
    footnotes = Footnotes()
    found = candidates(board.reports)
    absolute = absolute_table(found, footnotes)
    blocks = [f"\\section*{{Leaderboard of {len(board.reports)} runs}}", *latex_table(absolute)]
    blocks += [*map(escape_latex, found.notes), *latex_notes(footnotes.entries)]
    blocks += [escape_latex(f"Warning: {line}") for line in differing_protocols(board.reports)]
    return document([*blocks, *latex_table(runs_table(board))])


def runs_table(board: Leaderboard) -> Table:
    rows = tuple(
        cells(
            report.run_id,
            report.device,
            report.runtime,
            report.created.isoformat(timespec="minutes"),
            report.provenance.version or "not recorded",
            (report.provenance.commit or "not recorded")[:12],
            report.provenance.harness_digest[:12],
        )
        for report in board.reports
    )
    titles = columns("Run", "Machine", "Runtime", "Created", "Version", "Commit", "Harness")
    return Table("Runs", titles, rows)


def differing_protocols(reports: Sequence[RunReport]) -> Iterator[str]:
    """Where runs measured the same by other protocols, so that their figures must not be set against each other."""
    protocols: dict[Place, dict[str, dict[str, None]]] = {}
    for report in reports:
        for value in report.scoring.values:
            protocols.setdefault(value.place, {}).setdefault(value.protocol, {})[report.run_id] = None
    for place, by in protocols.items():
        runs = {run for of in by.values() for run in of}
        if len(by) > 1 and len(runs) > 1 and any(set(of) != runs for of in by.values()):
            told = "; ".join(f"{protocol or 'no protocol'} in {', '.join(of)}" for protocol, of in by.items())
            yield f"{place} was measured by several protocols and is not comparable between these runs: {told}"
