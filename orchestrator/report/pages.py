"""The report as a file: Markdown with GitHub's tables, or one HTML page that opens without a network."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.decide.answer import Decision
from orchestrator.report.absolute import Candidates
from orchestrator.report.bars import Chart, charts
from orchestrator.report.candidates import standing_table
from orchestrator.report.details import provenance_facts, reproducing
from orchestrator.report.differing import READING as DIFFERING
from orchestrator.report.differing import differing_title
from orchestrator.report.fidelity import reading as fidelity_reading
from orchestrator.report.html_rows import html_rows
from orchestrator.report.model import RunReport
from orchestrator.report.page_data import page_data, policy
from orchestrator.report.plots import NOT_INSTALLED, plots
from orchestrator.report.radar import is_comparable, radar
from orchestrator.report.recommendation import open_lines, recommendations
from orchestrator.report.table import Footnotes, Table
from orchestrator.report.view import View, view
from orchestrator.score.overall import Score

if TYPE_CHECKING:
    import jinja2

_PARTS = (
    ("answer", "Answer"),
    ("absolute", "Figures"),
    ("scores", "Overall metrics"),
    ("details", "Details"),
    ("provenance", "Provenance"),
)
"""Of the page, with the tracks between."""
_MOST_BARS = 300
_MANY_BARS = (
    "The bar charts of costs and speeds have too many bars for a page: `report --format svg` writes them as files."
)
_SPECIAL = re.compile(r"([\\`*\[\]<>|#~])")


@dataclass(frozen=True)
class Standing:
    """`open` is what was not found out and could change the answer."""

    model: str
    table: Table
    open: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """`policy` is the Content Security Policy that stands in its head, for the header of who serves it."""

    html: str
    policy: str


def render_html(report: RunReport, content: View | None = None) -> str:
    """A complete document: style, scripts and plots are inline, and nothing is loaded. Every string of the report is
    escaped. `content` is the report's view, where there is one already."""
    return report_page(report, content).html


def report_page(report: RunReport, content: View | None = None) -> Page:
    """`render_html`'s document with its policy."""
    content = content or view(report)
    drawn_charts = charts(report)
    left_out = _MANY_BARS if sum(chart.bars for chart in drawn_charts) > _MOST_BARS else ""
    return render_page(
        "report.html.j2",
        content.candidates,
        report.scores,
        report.decision,
        view=content,
        report=report,
        fidelity_reading=fidelity_reading(content.fidelity),
        differing_title=differing_title(report.differing),
        differing_reading=DIFFERING,
        radar=radar(report) if is_comparable(report) else None,
        charts=() if left_out else drawn_charts,
        charts_left_out=left_out,
        facts=provenance_facts(report),
        reproducing=reproducing(report),
        sentences=_sentences(report),
        standings=_standings(report),
        parts=_parts(report),
        tracks=report.tracks,
        plotted_tracks=sorted({one.track for one in report.scores if one.value is not None}),
    )


def render_page(
    template: str,
    found: Candidates,
    scores: tuple[Score, ...] = (),
    decision: Decision | None = None,
    **context: object,
) -> Page:
    """A page with limits, filters and plots of these candidates, and whatever else the template takes."""
    methods = tuple(dict.fromkeys(row.variant.method or "dense" for row in found.rows))
    drawn = plots(methods)
    environment = _environment()
    own = environment.loader.get_source(environment, "page.js")[0]  # type: ignore[union-attr]
    scripts = (own,) if drawn is None else (drawn.runtime, own)
    html = environment.get_template(template).render(
        {
            "models": tuple(dict.fromkeys(row.model for row in found.rows)),
            "methods": methods,
            "tracks": (),
            "has_plots": drawn is not None,
            "not_installed": NOT_INSTALLED,
            "data": page_data(found, scores, drawn, decision),
            "scripts": scripts,
            "policy": policy(scripts),
            **context,
        }
    )
    return Page(html, policy(scripts))


def _parts(report: RunReport) -> tuple[tuple[str, str], ...]:
    tracks = tuple((f"track-{track.value}", f"{track.value} {track.title}") for track in report.tracks)
    return (*_PARTS[:3], *tracks, *_PARTS[3:])


def _sentences(report: RunReport) -> tuple[tuple[str, str], ...]:
    """What to use, each with its model; with none where it is of all."""
    models = [answer.model for answer in report.decision.answers] if report.decision else [""]
    return tuple(zip(models, recommendations(report), strict=False))


def _standings(report: RunReport) -> tuple[Standing, ...]:
    """For each model, how its candidates stand by the manifest's limits, and what could change the answer."""
    if report.decision is None:
        return ()
    return tuple(
        Standing(answer.model, standing_table(answer, Footnotes()), tuple(open_lines(answer)))
        for answer in report.decision.answers
    )


def render_svg(chart: Chart) -> str:
    """One chart as a document of its own. Every string of the report is escaped."""
    bars = _environment().get_template("bars.svg.j2").module.bars  # type: ignore[attr-defined]
    return f"{str(bars(chart, alone=True)).strip()}\n"


def _environment() -> "jinja2.Environment":
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["html_rows"] = html_rows
    return made


def render_markdown(report: RunReport, content: View | None = None) -> str:
    """The same content and order as the HTML page, without the plot. Every string of the report is escaped."""
    content = content or view(report)
    blocks = [f"# Benchmark report: {escape(report.run_id)}", *map(escape, recommendations(report))]
    blocks += map(escape, content.summary)
    blocks += [
        f"## {content.absolute.title}",
        *markdown_table(content.absolute),
        *map(escape, content.candidates.notes),
    ]
    blocks += [f"## {content.overview.title}", *markdown_table(content.overview), escape(content.reading)]
    blocks += [escape(line) for line in content.columns]
    blocks += _list(f"Warning: {warning}" for warning in content.warnings)
    blocks += markdown_notes(content.footnotes)
    for track in content.tracks:
        blocks += [f"## Track {track.track.value}: {track.track.title}", *markdown_table(track.scores)]
        blocks += _list(track.notes)
        blocks += ["Measured values:", *markdown_table(track.values)]
    for table in content.fidelity:
        blocks += [f"## {table.title}", *markdown_table(table)]
    blocks += [escape(fidelity_reading(content.fidelity))] if content.fidelity else []
    for table in content.paper:
        blocks += [f"## {table.title}", *markdown_table(table)]
    blocks += [escape(content.verdicts)] if content.verdicts else []
    blocks += _missing(content)
    if content.remarks:
        blocks += ["## What the workers noted", *_list(content.remarks)]
    for table in content.details:
        blocks += [f"## {table.title}", *markdown_table(table)]
    blocks += ["## Provenance", *_list(f"{name}: {value}" for name, value in provenance_facts(report))]
    if report.provenance.notes:
        blocks += ["Choices made automatically:", *_list(report.provenance.notes)]
    return "\n\n".join(blocks) + "\n"


def escape(text: str) -> str:
    """One line of plain text that no Markdown renderer reads as markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")


def markdown_table(table: Table) -> list[str]:
    if not table.rows:
        return ["Nothing measured."]
    header = " | ".join(escape(column.title) for column in table.columns)
    rule = " | ".join("---:" if column.is_number else "---" for column in table.columns)
    rows = (" | ".join(escape(str(cell)) for cell in row) for row in table.rows)
    return ["\n".join(f"| {line} |" for line in (header, rule, *rows))]


def markdown_notes(footnotes: tuple[tuple[int, str], ...]) -> list[str]:
    if not footnotes:
        return []
    return ["\n".join(f"- \\[{number}\\] {escape(reason)}" for number, reason in footnotes)]


def _missing(content: View) -> list[str]:
    if not content.missing:
        return ["## What is missing, and why", "Nothing: every expected value was measured."]
    return ["## What is missing, and why", *_list(str(entry) for entry in content.missing)]


def _list(entries: Iterable[str]) -> list[str]:
    lines = [f"- {escape(entry)}" for entry in entries]
    return ["\n".join(lines)] if lines else []
