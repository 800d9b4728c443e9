"""The report as a file: Markdown with GitHub's tables, or one HTML page that opens without a network."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator.report.bars import Chart, charts
from orchestrator.report.details import provenance_facts
from orchestrator.report.model import RunReport
from orchestrator.report.radar import radar
from orchestrator.report.table import Table
from orchestrator.report.view import View, view

if TYPE_CHECKING:
    import jinja2

_SPECIAL = re.compile(r"([\\`*\[\]<>|#~])")


def render_html(report: RunReport) -> str:
    """A complete document: style and plot are inline, and nothing is loaded. Every string of the report is escaped."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            view=view(report),
            report=report,
            radar=radar(report),
            charts=charts(report),
            facts=provenance_facts(report),
        )
    )


def render_svg(chart: Chart) -> str:
    """One chart as a document of its own. Every string of the report is escaped."""
    bars = _environment().get_template("bars.svg.j2").module.bars  # type: ignore[attr-defined]
    return f"{str(bars(chart, alone=True)).strip()}\n"


def _environment() -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_markdown(report: RunReport) -> str:
    """The same content and order as the HTML page, without the plot. Every string of the report is escaped."""
    content = view(report)
    blocks = [f"# Benchmark report: {escape(report.run_id)}", *(escape(line) for line in content.summary)]
    blocks += [f"## {content.overview.title}", *_table(content.overview), escape(content.reading)]
    blocks += [escape(line) for line in content.columns]
    blocks += _list(f"Warning: {warning}" for warning in content.warnings)
    blocks += _notes(content)
    for track in content.tracks:
        blocks += [f"## Track {track.track.value}: {track.track.title}", *_table(track.scores)]
        blocks += _list(track.notes)
        blocks += ["Measured values:", *_table(track.values)]
    for table in content.paper:
        blocks += [f"## {table.title}", *_table(table)]
    blocks += [escape(content.verdicts)] if content.verdicts else []
    blocks += _missing(content)
    if content.remarks:
        blocks += ["## What the workers noted", *_list(content.remarks)]
    for table in content.details:
        blocks += [f"## {table.title}", *_table(table)]
    blocks += ["## Provenance", *_list(f"{name}: {value}" for name, value in provenance_facts(report))]
    if report.provenance.notes:
        blocks += ["Choices made automatically:", *_list(report.provenance.notes)]
    return "\n\n".join(blocks) + "\n"


def escape(text: str) -> str:
    """One line of plain text that no Markdown renderer reads as markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")


def _table(table: Table) -> list[str]:
    if not table.rows:
        return ["Nothing measured."]
    header = " | ".join(escape(column.title) for column in table.columns)
    rule = " | ".join("---:" if column.is_number else "---" for column in table.columns)
    rows = (" | ".join(escape(str(cell)) for cell in row) for row in table.rows)
    return ["\n".join(f"| {line} |" for line in (header, rule, *rows))]


def _notes(content: View) -> list[str]:
    if not content.footnotes:
        return []
    return ["\n".join(f"- \\[{number}\\] {escape(reason)}" for number, reason in content.footnotes)]


def _missing(content: View) -> list[str]:
    if not content.missing:
        return ["## What is missing, and why", "Nothing: every expected value was measured."]
    return ["## What is missing, and why", *_list(str(entry) for entry in content.missing)]


def _list(entries: Iterable[str]) -> list[str]:
    lines = [f"- {escape(entry)}" for entry in entries]
    return ["\n".join(lines)] if lines else []
