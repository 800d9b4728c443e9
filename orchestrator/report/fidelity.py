"""How far compressed models are from the dense one: divergences over text, and flips of choices."""

import re
from collections.abc import Sequence

from harness.contract import REFERENCE_ENGINE
from orchestrator.evidence.fidelity import FidelityFigure, Flips, RunFidelity, TextFidelity
from orchestrator.report.formats import interval_text, value_text
from orchestrator.report.table import Cell, Footnotes, Table, cells, columns

_TEXTS = "Divergence from dense, over text"
_OF_TEXTS = (
    "A divergence is KL(dense || compressed) of the next token's distribution over the whole vocabulary, in nats: its "
    "mean over all tokens, and what 50, 90, 99 and 99.9 % of them do not exceed. The same top token is the share of "
    "tokens for which both find the same one likeliest; the change is that of the probability of the token that stands "
    "in the text. Dense is read by the reference; by another engine, dense itself shows what that engine's arithmetic "
    "comes to. Brackets hold 95 % intervals over segments. Close to dense, a smaller divergence no longer means a "
    "better score. "
)
_OF_ALL = (
    "Divergences and flips say how much changed, not whether for better or worse: the accuracies with their intervals, "
    "and right to wrong beside wrong to right, have to decide."
)
_LIKELIEST = re.compile(r"\bkl-top(\d+)/")
_NATS = {"kl_mean": "Mean", "kl_median": "Median", "kl_p90": "90 %", "kl_p99": "99 %", "kl_p999": "99.9 %"}


def fidelity_tables(fidelity: RunFidelity, footnotes: Footnotes) -> tuple[Table, ...]:
    """Those of which there is something to show."""
    tables = (_texts(fidelity.texts, footnotes), _flips(fidelity.flips, footnotes))
    return tuple(table for table in tables if table.rows)


def reading(tables: Sequence[Table]) -> str:
    """How to read those tables."""
    return (_OF_TEXTS if any(table.title == _TEXTS for table in tables) else "") + _OF_ALL


def _texts(texts: tuple[TextFidelity, ...], footnotes: Footnotes) -> Table:
    numbers = (*(f"KL {name.lower()}" for name in _NATS.values()), "Same top token", "Change of right")
    return Table(
        _TEXTS,
        columns("Variant", "Model", "Text", numbers=numbers),
        tuple((*cells(one.variant.label, one.model, _text(one)), *_figures(one, footnotes)) for one in texts),
        headings=3,
    )


def _text(one: TextFidelity) -> str:
    by = "" if one.engine == REFERENCE_ENGINE else f" by {one.engine}"
    if (known := _LIKELIEST.search(one.protocol)) is not None:
        by += f", at least (the {known[1]} likeliest tokens)"
    if one.segments == one.segments_available:
        return one.task + by
    return f"{one.task}{by}, {one.segments} of {one.segments_available}"


def _figures(one: TextFidelity, footnotes: Footnotes) -> tuple[Cell, ...]:
    shown = (*((name, "") for name in _NATS), ("same_top", "fraction"), ("right_probability_change", "fraction"))
    if one.reason is not None:
        return tuple(footnotes.missing(one.reason) for _ in shown)
    return tuple(_cell(one.figures[name], unit, footnotes) for name, unit in shown)


def _cell(figure: FidelityFigure, unit: str, footnotes: Footnotes) -> Cell:
    note = None if figure.interval_reason is None else footnotes.number(figure.interval_reason)
    text = f"{figure.value:.3g}" if unit == "" else value_text(figure.value, unit)
    interval = None if figure.interval is None else interval_text(figure.interval, unit)
    return Cell(text, note=note, interval=interval)


def _flips(flips: tuple[Flips, ...], footnotes: Footnotes) -> Table:
    numbers = ("Items", "Right to wrong", "Wrong to right", "Other pick", "All flips", "p of right and wrong")
    return Table(
        "Flips: other picks than those of dense",
        columns("Variant", "Model", "Task", numbers=numbers),
        tuple((*cells(one.variant.label, one.model, _task(one)), *_counts(one, footnotes)) for one in flips),
        headings=3,
    )


def _task(one: Flips) -> str:
    return f"{one.task} by {one.engine}"


def _counts(one: Flips, footnotes: Footnotes) -> tuple[Cell, ...]:
    if one.share is None or one.p_value is None:
        absent = footnotes.missing(one.reason or "not counted")
        return (absent,) * 6
    counts = (one.items, one.right_to_wrong, one.wrong_to_right, one.other_pick)
    return (*cells(*map(str, counts)), _cell(one.share, "fraction", footnotes), Cell(f"{one.p_value:.2g}"))
