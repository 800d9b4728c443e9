"""What `orchestrator score`, `compare`, `agreement` and `claims` print."""

from collections.abc import Sequence
from dataclasses import replace

from rich import box
from rich.console import RenderableType
from rich.text import Text

from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import Interval, Value, Values, Variant
from orchestrator.report.agreement import agreement_table, disagreement_table
from orchestrator.report.claims import VERDICTS, claims_table, counts_text
from orchestrator.report.formats import MISSING, interval_text, score_text, value_text
from orchestrator.report.imported import READING as OF_OTHERS
from orchestrator.report.imported import imported_table
from orchestrator.report.measured import measured_tables, remarks
from orchestrator.report.table import Cell, Footnotes, Table, cells, columns
from orchestrator.report.terminal import plain_text, rich_table
from orchestrator.report.tracks import (
    LIKE_BEST,
    column_notes,
    coverage_text,
    missing_score_cell,
    own_text,
    score_interval_text,
    score_note,
    survivors_text,
)
from orchestrator.report.view import missing_entries
from orchestrator.score.agreement import RunAgreement
from orchestrator.score.claims import RunClaims
from orchestrator.score.comparison import Comparison, Contender, TrackDifference, ValueDifference
from orchestrator.score.overall import Score
from orchestrator.score.ratio import Ratio
from orchestrator.score.scores import RunScores
from orchestrator.store.imported import Imported
from orchestrator.tracks import Track

_TESTS = (
    "p is two-sided: McNemar's exact test where each item is right or wrong, with those that only one gets right in "
    "the last column, else from the resamples. p (Holm) is corrected for all p of its table."
)
_MOST_COLUMNS = 6
_LIKE_BEST = {None: "", True: "yes", False: "no"}


def score_blocks(document: RunScores) -> list[RenderableType]:
    """Overall metrics, their values, how stable their order is, all else that was measured, and what was not."""
    footnotes = Footnotes()
    tables = [_overall(document, footnotes), _values(document, footnotes), _ranks(document)]
    tables += [part for table in measured_tables(document.measured, footnotes) for part in table.split(_MOST_COLUMNS)]
    blocks: list[RenderableType] = [rich_table(table, box.ROUNDED) for table in tables if table.rows]
    blocks += [plain_text(f"[{number}] {reason}") for number, reason in footnotes.entries]
    blocks += [plain_text(note) for note in column_notes(document.scores)]
    missing = missing_entries(document.scores)
    if missing:
        blocks += [Text(), plain_text("What is missing, and why", style="bold")]
        blocks += [plain_text(f"- {entry}") for entry in missing]
    noted = remarks(document.measured)
    if noted:
        blocks += [Text(), plain_text("What the workers noted", style="bold")]
        blocks += [plain_text(f"- {entry}") for entry in noted]
    return [*blocks, *_of_others(document.imported), *_closing(document.resampling, document.warnings)]


def comparison_blocks(document: Comparison) -> list[RenderableType]:
    """The differences of the overall metrics, then of the values."""
    footnotes = Footnotes()
    a, b = (_name(one, document) for one in (document.a, document.b))
    tables = [_track_differences(document, footnotes), _value_differences(document, footnotes)]
    blocks: list[RenderableType] = [plain_text(f"A: {a}"), plain_text(f"B: {b}")]
    blocks += [rich_table(table, box.ROUNDED) for table in tables if table.rows]
    blocks += [plain_text(f"[{number}] {reason}") for number, reason in footnotes.entries]
    tested = plain_text(_TESTS, style="dim")
    return [*blocks, tested, *_of_others(document.imported), *_closing(document.resampling, document.warnings)]


def _of_others(results: Sequence[Imported]) -> list[RenderableType]:
    """What was imported, apart from all that was measured; nothing where nothing was."""
    if not results:
        return []
    return [rich_table(imported_table(results), box.ROUNDED), plain_text(OF_OTHERS)]


def agreement_blocks(document: RunAgreement, most: int) -> list[RenderableType]:
    """The agreement of each task, then up to `most` items of each that the engines pick differently."""
    footnotes = Footnotes()
    tables = [agreement_table(document.tasks, footnotes), disagreement_table(document.tasks, most)]
    blocks: list[RenderableType] = [rich_table(table, box.ROUNDED) for table in tables if table.rows]
    return blocks + [plain_text(f"[{number}] {reason}") for number, reason in footnotes.entries]


def claims_blocks(document: RunClaims) -> list[RenderableType]:
    """Every claim with its verdict and figures, and how many of each verdict there are."""
    footnotes = Footnotes()
    blocks: list[RenderableType] = [rich_table(claims_table(document, footnotes), box.ROUNDED)]
    blocks += [plain_text(f"[{number}] {reason}") for number, reason in footnotes.entries]
    blocks += [plain_text(f"{counts_text(document)} in {document.run}"), plain_text(VERDICTS, style="dim")]
    return [*blocks, *_closing(document.resampling, ())]


def _overall(document: RunScores, footnotes: Footnotes) -> Table:
    rows = tuple(
        (
            *_heading(score.track, score.variant),
            _score_cell(document, score, footnotes),
            Cell(_LIKE_BEST[document.like_best(score.variant, score.track)]),
            Cell(coverage_text(score)),
        )
        for score in document.scores
        if score.variant.is_scored_in(score.track)
    )
    titles = columns("Metric", "Method", "Setting", numbers=("Score",))
    return Table(f"Overall metrics of {document.run}", (*titles, *columns("Like the best", "Computed from")), rows, 3)


def _score_cell(document: RunScores, score: Score, footnotes: Footnotes) -> Cell:
    if score.value is None:
        return missing_score_cell(score, footnotes)
    if score.variant.is_dense:
        return Cell(score_text(score.value))
    return Cell(
        score_text(score.value),
        note=score_note(document, score, footnotes, score.interval_reason),
        interval=None if score.interval is None else score_interval_text(score, score.interval),
        beside=own_text(score),
    )


def _values(document: RunScores, footnotes: Footnotes) -> Table:
    values = Values(document.values)
    rows = tuple(
        (
            *_heading(score.track, score.variant),
            Cell(ratio.place.label),
            Cell(ratio.place.model),
            Cell(MISSING if value.items is None else str(value.items)),
            *_value_cells(value, ratio, footnotes),
        )
        for score in document.scores
        for ratio in score.ratios
        if (value := values.get(ratio.place, score.variant)) is not None
    )
    titles = columns("Metric", "Method", "Setting", "Value", "Model", numbers=("Items", "Measured", "Ratio"))
    return Table("Values", titles, rows, 5)


def _value_cells(value: Value, ratio: Ratio, footnotes: Footnotes) -> tuple[Cell, Cell]:
    measured = _cell(value_text(value.value, value.unit), value.interval, value.unit, value.interval_reason, footnotes)
    text = f"{LIKE_BEST if ratio.like_dense else ''}{ratio.ratio:.3f}"
    return (
        replace(measured, beside=survivors_text(value)),
        Cell(text)
        if value.variant.is_dense or value.interval is None
        else _cell(text, ratio.interval, "ratio", ratio.interval_reason, footnotes),
    )


def _cell(text: str, interval: Interval | None, unit: str, reason: str | None, footnotes: Footnotes) -> Cell:
    """A figure with its interval, or with a note on why it has none."""
    if interval is not None:
        return Cell(text, interval=interval_text(interval, unit))
    return Cell(text, note=None if reason is None else footnotes.number(reason))


def _ranks(document: RunScores) -> Table:
    rows = tuple(
        cells(
            ranks.track.metric,
            one.variant.method or "dense",
            one.variant.setting or "",
            str(one.rank),
            f"{one.first:.1%}",
            f"{one.keeps_rank:.1%}",
            f"{ranks.kendall_tau:.2f}",
        )
        for ranks in document.ranks
        for one in ranks.variants
    )
    numbers = ("Rank", "First in", "Keeps rank in", "Kendall's tau")
    return Table("Ranks over the resamples", columns("Metric", "Method", "Setting", numbers=numbers), rows, 3)


def _track_differences(document: Comparison, footnotes: Footnotes) -> Table:
    rows = tuple(
        (
            Cell(one.metric),
            *(Cell(MISSING if score is None else score_text(score)) for score in (one.a, one.b)),
            *_difference_cells(one, "score", footnotes),
            Cell(str(one.values)),
        )
        for one in document.tracks
    )
    return Table("Overall metrics", columns("Metric", numbers=("A", "B", "A - B", "p", "p (Holm)", "Values")), rows)


def _value_differences(document: Comparison, footnotes: Footnotes) -> Table:
    rows = tuple(
        (
            Cell(one.place.track.metric),
            Cell(one.place.label),
            Cell(one.place.model),
            *(_compared(value, own, one.unit) for value, own in ((one.a, one.own_a), (one.b, one.own_b))),
            *_difference_cells(one, one.unit, footnotes),
            Cell(_split(one)),
        )
        for one in document.values
    )
    titles = columns("Metric", "Value", "Model", numbers=("A", "B", "A - B", "p", "p (Holm)", "Only A:B right"))
    return Table("Values", titles, rows, 3)


def _compared(value: float | None, own: float | None, unit: str) -> Cell:
    """A figure over the items that both have; beside it the one over all that its own variant has."""
    beside = None if own is None else f"(own items: {value_text(own, unit)})"
    return Cell(MISSING if value is None else value_text(value, unit), beside=beside)


def _difference_cells(one: TrackDifference | ValueDifference, unit: str, footnotes: Footnotes) -> tuple[Cell, ...]:
    tests = tuple(Cell(MISSING if p is None else _p_text(p)) for p in (one.p_value, one.holm_p_value))
    if one.difference is None:
        return footnotes.missing(one.reason or ""), *tests
    sign = f"{LIKE_BEST if one.alike else ''}{'-' if one.difference < 0 else '+'}"
    text = sign + _size_text(abs(one.difference), unit)
    if one.interval is None:
        return Cell(text, note=footnotes.number(one.reason or "")), *tests
    return Cell(text, interval=interval_text(one.interval, unit)), *tests


def _size_text(size: float, unit: str) -> str:
    if unit == "score":
        return score_text(size)
    return f"{100 * size:.2f} points" if unit == "fraction" else value_text(size, unit)


def _split(one: ValueDifference) -> str:
    if one.mcnemar is None:
        return MISSING
    return f"{one.mcnemar.only_a}:{one.mcnemar.only_b}"


def _p_text(p_value: float) -> str:
    return f"{p_value:.2g}" if p_value >= 0.001 else "< 0.001"


def _heading(track: Track, variant: Variant) -> tuple[Cell, Cell, Cell]:
    return Cell(track.metric), Cell(variant.method or "dense"), Cell(variant.setting or "")


def _name(contender: Contender, document: Comparison) -> str:
    same = document.a.run == document.b.run
    return contender.variant.label if same else f"{contender.variant.label} of {contender.run}"


def _closing(resampling: Resampling | None, warnings: tuple[str, ...]) -> list[RenderableType]:
    warned = [plain_text(f"warning: {one}", style="yellow") for one in warnings]
    if resampling is None:
        return [*warned]
    note = (
        f"Square brackets hold {resampling.confidence_percent} % intervals, from {resampling.resamples} resamples of "
        f"the items (paired bootstrap, BCa, seed {resampling.seed}), or draws of the rounds' spread. {LIKE_BEST}marks "
        "costs that chance alone may tell apart from dense, or from each other."
    )
    return [plain_text(note, style="dim"), *warned]
