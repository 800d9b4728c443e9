"""How far engines agree: a table of tasks, and the items of which they pick different choices."""

from collections.abc import Sequence

from orchestrator.report.formats import MISSING
from orchestrator.report.table import Cell, Footnotes, Table, cells, columns
from orchestrator.score.agreement import ItemDifference, LogLikelihoods, TaskAgreement

MOST_ITEMS = 20
"""Of a task on a checkpoint, in a report; the report's JSON has all."""


def agreement_table(tasks: Sequence[TaskAgreement], footnotes: Footnotes) -> Table:
    """One row a task on a checkpoint. Differences are of log-likelihoods, in nats."""
    numbers = ("Reference", "Engine", "Identical picks", "Mean difference (nats)", "Largest difference (nats)")
    return Table(
        "Agreement with the reference, item by item",
        columns("Method", "Setting", "Model", "Task", "Engine", "Computed in", numbers=numbers),
        tuple((*_heading(one), *_figures(one, footnotes)) for one in tasks),
        headings=5,
    )


def disagreement_table(tasks: Sequence[TaskAgreement], most: int | None = MOST_ITEMS) -> Table:
    """The items that the engines pick differently, the first `most` of each task on a checkpoint."""
    rows = tuple((*_heading(one), *_item(item)) for one in tasks for item in one.differing[:most])
    cut = most is not None and any(len(one.differing) > most for one in tasks)
    return Table(
        "Items that the engines pick differently" + (f", the first {most} of each task" if cut else ""),
        (
            *columns("Method", "Setting", "Model", "Task", "Engine", numbers=("Item", "Right")),
            *columns("Reference picks", "Engine picks", "Log-likelihoods of the reference", "Of the engine"),
        ),
        rows,
        headings=5,
    )


def _heading(one: TaskAgreement) -> tuple[Cell, ...]:
    return cells(one.variant.method or "dense", one.variant.setting or "", one.model, one.task, one.engine)


def _figures(one: TaskAgreement, footnotes: Footnotes) -> tuple[Cell, ...]:
    dtypes = " / ".join(dtype.value for dtype in (one.reference_dtype, one.engine_dtype) if dtype)
    values = tuple(Cell(_value(one, value)) for value in (one.reference_value, one.engine_value))
    if one.reason is not None:
        absent = footnotes.missing(one.reason)
        return Cell(dtypes), *values, absent, absent, absent
    picks = (
        footnotes.missing("a text has no choices to pick from")
        if one.identical_percent is None
        else Cell(f"{one.identical_percent:.1f} % ({one.identical_picks}/{one.picks})")
    )
    differences = (one.mean_difference_nats, one.largest_difference_nats)
    return Cell(dtypes), *values, picks, *(Cell(_nats(nats)) for nats in differences)


def _value(one: TaskAgreement, value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.3f}" if one.picks == 0 else f"{100 * value:.1f} %"


def _nats(nats: float | None) -> str:
    return MISSING if nats is None else f"{nats:.3g}"


def _item(item: ItemDifference) -> tuple[Cell, ...]:
    picked = (item.reference_picked, item.engine_picked)
    return (
        *cells(str(item.index), str(item.gold)),
        *(Cell("nothing" if one is None else str(one)) for one in picked),
        *(Cell(_listing(one)) for one in (item.reference_log_likelihoods, item.engine_log_likelihoods)),
    )


def _listing(log_likelihoods: LogLikelihoods) -> str:
    return ", ".join("not finite" if one is None else f"{one:.3f}" for one in log_likelihoods)
