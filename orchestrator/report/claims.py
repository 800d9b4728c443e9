"""Claims and what became of them, and the categories of the paper's Table 5, as tables."""

from collections.abc import Iterable, Sequence

from orchestrator.report.formats import interval_text, plural, score_text, value_text
from orchestrator.report.table import Cell, Footnotes, Table, columns
from orchestrator.score.categories import CategoryScore
from orchestrator.score.claims import BY_FIGURE_ALONE, Finding, RunClaims, Verdict
from orchestrator.score.claims_file import Bounds
from orchestrator.score.sides import SideFigure, Take
from orchestrator.tracks import Track

VERDICTS = (
    "HOLDS and FAILS: the whole 95 % interval lies within what is claimed, or outside of it. CANNOT TELL: it holds the "
    "bound, or there is none. PASS and FAIL: a published value, within its tolerance or not. See docs/claims.md."
)


def claims_table(document: RunClaims, footnotes: Footnotes, findings: Iterable[Finding] | None = None) -> Table:
    """One row a claim, by default of all."""
    rows = tuple(
        (
            Cell(one.verdict.value, note=_note(one, footnotes)),
            Cell(one.says, beside=f"({one.source})"),
            figure_cell(one),
            Cell(bounds_text(one)),
            Cell(_sides_text(one)),
        )
        for one in (document.findings if findings is None else findings)
    )
    titles = columns("Verdict", "Claim", "Measured", "Claimed", "Figures")
    return Table(document.title, titles, rows)


def judged_table(document: RunClaims | None, footnotes: Footnotes) -> Table:
    """Of a report: only what this run measured, and nothing where that is no claim at all."""
    found = () if document is None else document.findings
    measured = [one for one in found if one.verdict is not Verdict.NOT_MEASURED]
    if document is None or not measured:
        return Table("", (), ())
    return claims_table(document, footnotes, measured)


def counts_text(document: RunClaims) -> str:
    """For instance `17 claims: 9 HOLDS, 2 FAILS, 6 NOT MEASURED`."""
    counts = [f"{count} {one.value}" for one in Verdict if (count := document.count(one))]
    return f"{plural(len(document.findings), 'claim')}: {', '.join(counts)}"


def categories_table(scores: Sequence[CategoryScore], footnotes: Footnotes) -> Table:
    """A row a category, a column a library; nothing where no category has a figure."""
    track = Track.HARDWARE_ACCELERATION
    libraries = tuple(dict.fromkeys(one.library for one in scores))
    cells = {(one.category, one.library): one for one in scores}
    categories = tuple(dict.fromkeys(one.category for one in scores))
    kept = [one for one in categories if any(cells[one, library].figure for library in libraries)]
    rows = tuple(
        (
            Cell(category.value),
            Cell(_members_text([cells[category, library] for library in libraries])),
            *(_score_cell(cells[category, library], footnotes) for library in libraries),
        )
        for category in kept
    )
    numbers = tuple(track.metric if library is None else f"{library} {track.metric}" for library in libraries)
    return Table("Acceleration by category of compression", columns("Category", "Variants", numbers=numbers), rows)


def _members_text(row: Sequence[CategoryScore]) -> str:
    members = (member.variant.label for one in row if one.figure is not None for member in one.figure.members)
    return ", ".join(dict.fromkeys(members))


def _score_cell(one: CategoryScore, footnotes: Footnotes) -> Cell:
    if one.figure is None:
        return footnotes.missing(one.reason or "")
    return Cell(
        score_text(one.figure.value),
        note=None if one.figure.interval_reason is None else footnotes.number(one.figure.interval_reason),
        interval=None if one.figure.interval is None else interval_text(one.figure.interval),
    )


def _note(one: Finding, footnotes: Footnotes) -> int | None:
    return None if one.reason in (None, BY_FIGURE_ALONE) else footnotes.number(one.reason or "")


def figure_cell(one: Finding) -> Cell:
    if one.figure is None:
        return Cell("")
    unit = _UNITS.get(one.of, "")
    interval = None if one.interval is None else interval_text(one.interval, unit)
    if one.of == "value" and one.a is None:
        return Cell(value_text(one.figure, ""), interval=interval)
    return Cell(f"{one.of} {one.figure:{_FORMS.get(one.of, '.2f')}}", interval=interval)


_MOST_LABELS = 4
_UNITS = {"ratio": "ratio", "agreement": "ratio", "difference": "score"}
_FORMS = {"difference": "+.2f", "ratio": ".3f", "agreement": ".2f"}


def bounds_text(one: Finding) -> str:
    bounds: Bounds = one.bounds
    if bounds.at_most is None:
        return f"at least {bounds.at_least:g}"
    if bounds.at_least is None:
        return f"at most {bounds.at_most:g}"
    return f"{bounds.at_least:.4g} to {bounds.at_most:.4g}"


def _sides_text(one: Finding) -> str:
    """What was compared: `98.61 of gptq W8A16, awq W8A16 against 77.90 of wanda 50% (without llm-pruner)`."""
    sides = [side for side in (one.a, one.b) if side is not None]
    absent = dict.fromkeys(method for side in sides for method in side.absent)
    texts = [f"{score_text(side.value)} of {_who(side)}" for side in sides]
    if len(sides) == 2 and sides[0].members_alike(sides[1]) and sides[0].take is sides[1].take:
        texts = [score_text(sides[0].value), texts[1]]
    return " against ".join(texts) + (f" (without {', '.join(absent)})" if absent else "")


def _who(side: SideFigure) -> str:
    labels = [member.variant.label for member in side.members]
    if side.take is Take.MEAN or len(labels) == 1:
        return ", ".join(labels) if len(labels) <= _MOST_LABELS else plural(len(labels), "variant")
    deciding = next(member.variant.label for member in side.members if member.value == side.value)
    return f"{deciding}, the {side.take.value} of {len(labels)}"
