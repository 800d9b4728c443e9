"""What `orchestrator score`, `orchestrator compare` and `orchestrator agreement` print."""

from rich import box
from rich.console import RenderableType
from rich.text import Text

from orchestrator.evidence.observation import Variant
from orchestrator.report.agreement import agreement_table, disagreement_table
from orchestrator.report.formats import MISSING, interval_text, score_text, value_text
from orchestrator.report.table import Cell, Footnotes, Table, cells, columns
from orchestrator.report.terminal import plain_text, rich_table
from orchestrator.report.view import missing_entries
from orchestrator.score.agreement import RunAgreement
from orchestrator.score.uncertainty import (
    Comparison,
    Contender,
    Interval,
    Resampling,
    RunScores,
    TrackDifference,
    TrackScore,
    ValueDifference,
    ValueScore,
)
from orchestrator.tracks import Track, place_label

_LIKE_BEST = {None: "", True: "yes", False: "no"}


def score_blocks(document: RunScores) -> list[RenderableType]:
    """Overall metrics, the values behind them, the stability of their order, and what is missing."""
    footnotes = Footnotes()
    tables = [_overall(document, footnotes), _values(document, footnotes), _ranks(document)]
    blocks: list[RenderableType] = [rich_table(table, box.ROUNDED) for table in tables if table.rows]
    blocks += [plain_text(f"[{number}] {reason}") for number, reason in footnotes.entries]
    missing = missing_entries(document.scores)
    if missing:
        blocks += [Text(), plain_text("What is missing, and why", style="bold")]
        blocks += [plain_text(f"- {entry}") for entry in missing]
    return [*blocks, *_closing(document.resampling, document.warnings)]


def comparison_blocks(document: Comparison) -> list[RenderableType]:
    """The differences of the overall metrics, then of the values."""
    footnotes = Footnotes()
    a, b = (_name(one, document) for one in (document.a, document.b))
    tables = [_track_differences(document, footnotes), _value_differences(document, footnotes)]
    blocks: list[RenderableType] = [plain_text(f"A: {a}"), plain_text(f"B: {b}")]
    blocks += [rich_table(table, box.ROUNDED) for table in tables if table.rows]
    blocks += [plain_text(f"[{number}] {reason}") for number, reason in footnotes.entries]
    return [*blocks, *_closing(document.resampling, document.warnings)]


def agreement_blocks(document: RunAgreement, most: int) -> list[RenderableType]:
    """The agreement of each task, then up to `most` items of each that the engines pick differently."""
    footnotes = Footnotes()
    tables = [agreement_table(document.tasks, footnotes), disagreement_table(document.tasks, most)]
    blocks: list[RenderableType] = [rich_table(table, box.ROUNDED) for table in tables if table.rows]
    return blocks + [plain_text(f"[{number}] {reason}") for number, reason in footnotes.entries]


def _overall(document: RunScores, footnotes: Footnotes) -> Table:
    rows = tuple(
        (
            *_heading(score.track, score.variant),
            _score_cell(score, footnotes),
            Cell(_LIKE_BEST[score.like_best]),
            Cell(score.coverage.summary),
        )
        for score in document.scores
        if not (score.track.is_relative and score.variant.is_dense)
    )
    titles = columns("Metric", "Method", "Setting", numbers=("Score",))
    return Table(f"Overall metrics of {document.run}", (*titles, *columns("Like the best", "Computed from")), rows, 3)


def _score_cell(score: TrackScore, footnotes: Footnotes) -> Cell:
    if score.value is None:
        return footnotes.missing(score.reason or "")
    if score.variant.is_dense:
        return Cell(score_text(score.value))
    if score.interval is None:
        return Cell(score_text(score.value), note=footnotes.number(score.interval_reason or ""))
    return Cell(score_text(score.value), interval=_interval(score.interval))


def _values(document: RunScores, footnotes: Footnotes) -> Table:
    rows = tuple(
        (
            *_heading(score.track, score.variant),
            Cell(place_label(score.track, value.part, value.name)),
            Cell(value.model),
            Cell(MISSING if value.items is None else str(value.items)),
            *_value_cells(value, footnotes, of_dense=score.variant.is_dense),
        )
        for score in document.scores
        for value in score.values
    )
    titles = columns("Metric", "Method", "Setting", "Value", "Model", numbers=("Items", "Measured", "Ratio to dense"))
    return Table("Values", titles, rows, 5)


def _value_cells(value: ValueScore, footnotes: Footnotes, *, of_dense: bool) -> tuple[Cell, Cell]:
    note = None if value.interval_reason is None else footnotes.number(value.interval_reason)
    measured = Cell(
        value_text(value.value, value.unit),
        note=note if value.interval is None else None,
        interval=None if value.interval is None else _interval(value.interval, value.unit),
    )
    if value.ratio is None or of_dense:
        return measured, Cell(MISSING if value.ratio is None else f"{value.ratio:.3f}")
    ratio = Cell(
        f"{value.ratio:.3f}",
        note=note if value.ratio_interval is None and value.interval is not None else None,
        interval=None if value.ratio_interval is None else _interval(value.ratio_interval, "ratio"),
    )
    return measured, ratio


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
    return Table("Overall metrics", columns("Metric", numbers=("A", "B", "A - B", "p", "Values")), rows)


def _value_differences(document: Comparison, footnotes: Footnotes) -> Table:
    rows = tuple(
        (
            Cell(one.track.metric),
            Cell(place_label(one.track, one.part, one.name)),
            Cell(one.model),
            *(Cell(MISSING if value is None else value_text(value, one.unit)) for value in (one.a, one.b)),
            *_difference_cells(one, one.unit, footnotes),
            Cell(_mcnemar(one)),
        )
        for one in document.values
    )
    titles = columns("Metric", "Value", "Model", numbers=("A", "B", "A - B", "p", "McNemar"))
    return Table("Values", titles, rows, 3)


def _difference_cells(one: TrackDifference | ValueDifference, unit: str, footnotes: Footnotes) -> tuple[Cell, Cell]:
    if one.difference is None:
        return footnotes.missing(one.reason or ""), Cell(MISSING)
    text = ("-" if one.difference < 0 else "+") + _size_text(abs(one.difference), unit)
    if one.interval is None or one.p_value is None:
        return Cell(text, note=footnotes.number(one.reason or "")), Cell(MISSING)
    return Cell(text, interval=_interval(one.interval, unit)), Cell(_p_text(one.p_value))


def _size_text(size: float, unit: str) -> str:
    if unit == "score":
        return score_text(size)
    return f"{100 * size:.2f} points" if unit == "fraction" else value_text(size, unit)


def _mcnemar(one: ValueDifference) -> str:
    if one.mcnemar is None:
        return MISSING
    return f"{one.mcnemar.only_a}:{one.mcnemar.only_b}, {_p_text(one.mcnemar.p_value)}"


def _p_text(p_value: float) -> str:
    return f"{p_value:.2g}" if p_value >= 0.001 else "< 0.001"


def _interval(interval: Interval, unit: str = "score") -> str:
    return interval_text(interval.low, interval.high, unit)


def _heading(track: Track, variant: Variant) -> tuple[Cell, Cell, Cell]:
    return Cell(track.metric), Cell(variant.method or "dense"), Cell(variant.setting or "")


def _name(contender: Contender, document: Comparison) -> str:
    same = document.a.run == document.b.run
    return contender.variant.label if same else f"{contender.variant.label} of {contender.run}"


def _closing(resampling: Resampling, warnings: tuple[str, ...]) -> list[RenderableType]:
    note = (
        f"Square brackets hold {resampling.confidence_percent} % intervals, from {resampling.resamples} resamples of "
        f"the items (paired bootstrap, BCa, seed {resampling.seed})."
    )
    return [plain_text(note, style="dim"), *(plain_text(f"warning: {one}", style="yellow") for one in warnings)]
