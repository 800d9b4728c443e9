"""Candidates in absolute units, as the first table of a report: points of accuracy, GiB, tokens a second, minutes."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.evidence.value import NOT_MEASURED
from orchestrator.report.choices import (
    ACCURACY,
    DISK,
    DIVERGENCE,
    LOSS,
    MEMORY,
    PERPLEXITY,
    SPEED,
    TIME,
    Amount,
    Candidate,
    candidate_rows,
    shared_tasks,
)
from orchestrator.report.model import RunReport
from orchestrator.report.table import Cell, Footnotes, Table, cells, columns

_SCALES = {
    "bytes": ((2**30, "GiB"), (2**20, "MiB")),
    "seconds": ((3600, "h"), (60, "min"), (1, "s")),
    "fraction": ((0.01, "%"),),
}


@dataclass(frozen=True)
class Measure:
    """One column. Amounts are in units of `scale` times what values have; `unit` is then their own.

    `limit` says which end a reader bounds: `max` or `min`; None of what a bound says nothing about.
    """

    key: str
    title: str
    unit: str
    scale: float
    higher_is_better: bool
    limit: str | None

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, value: float) -> str:
        return amount_text(value / self.scale)


@dataclass(frozen=True)
class Candidates:
    """`notes` say what the mean accuracies are taken over."""

    measures: tuple[Measure, ...]
    rows: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()

    @property
    def qualities(self) -> tuple[Measure, ...]:
        """What the plots may set against a cost, first what most candidates have."""
        found = [one for one in self.measures if one.key in (LOSS, ACCURACY, PERPLEXITY, DIVERGENCE)]
        return tuple(sorted(found, key=lambda one: -sum(one.key in row.amounts for row in self.rows)))

    @property
    def speeds(self) -> tuple[Measure, ...]:
        return tuple(one for one in self.measures if one.key.startswith(SPEED))

    @property
    def plotted(self) -> tuple[tuple[str, str], ...]:
        """The costs that a quality is plotted against, with the plot's title."""
        held = {one.key for one in self.measures}
        size = next((key for key in (MEMORY, DISK, TIME) if key in held), None)
        titles = {
            MEMORY: "Quality against memory",
            DISK: "Quality against size on disk",
            TIME: "Quality against time",
        }
        found = [] if size is None else [(size, titles[size])]
        return tuple(found + ([(SPEED, "Quality against speed")] if self.speeds else []))

    @property
    def has_backends(self) -> bool:
        return len({row.backend for row in self.rows if row.backend is not None}) > 1

    @property
    def has_runs(self) -> bool:
        return len({row.run for row in self.rows}) > 1


def candidates(reports: Sequence[RunReport]) -> Candidates:
    """Of all runs, with the measures that at least one candidate has an amount of."""
    shared = shared_tasks(reports)
    rows = tuple(row for report in reports for row in candidate_rows(report, shared))
    found = {key: [row.amounts[key] for row in rows if key in row.amounts] for key in _keys(rows)}
    measures = tuple(_measure(key, amounts) for key, amounts in found.items() if amounts)
    return Candidates(measures, rows, tuple(_notes(rows)))


def _notes(rows: Sequence[Candidate]) -> Iterator[str]:
    """Over which tasks the mean accuracies are, and of which models."""
    models: dict[tuple[str, ...], dict[str, None]] = {}
    for row in rows:
        if row.tasks and ACCURACY in row.amounts:
            models.setdefault(row.tasks, {})[row.model] = None
    if any(LOSS in row.amounts for row in rows):
        yield (
            "Loss is the share of dense's accuracy that is lost over the tasks that dense can do, paired item by item; "
            "where no task has right answers, that of perplexity."
        )
    for tasks, of in models.items():
        where = f" of {', '.join(of)}" if len(models) > 1 else ""
        yield f"Accuracy{where} is the unweighted mean over {', '.join(tasks)}: what all variants were evaluated on."


def amount_text(value: float) -> str:
    """Four digits, without an exponent below a million."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if abs(value) >= 1e6:
        return f"{value:.3e}"
    return f"{value:.{max(0, min(3, 3 - math.floor(math.log10(abs(value) or 1))))}f}"


def absolute_table(found: Candidates, footnotes: Footnotes) -> Table:
    """The first table of a report: one row a candidate. Where several runs stand in it, it says which and on what."""
    several = len({row.model for row in found.rows}) > 1
    heads = {"Variant": True, "Model": several or found.has_runs, "Library": found.has_backends}
    heads |= {"Machine": found.has_runs, "Run": found.has_runs}
    rows = tuple(
        (
            *(cell for cell, shown in zip(_heads(row), heads.values(), strict=True) if shown),
            *(_cell(row, measure, footnotes) for measure in found.measures),
        )
        for row in found.rows
    )
    shown = [head for head, is_shown in heads.items() if is_shown]
    titles = columns(*shown, numbers=tuple(measure.heading for measure in found.measures))
    return Table("Each variant in absolute units", titles, rows, len(shown))


def _heads(row: Candidate) -> tuple[Cell, ...]:
    label = Cell(row.variant.label, beside="recommended" if row.recommended else None)
    return label, *cells(row.model, row.backend or "none", row.device, row.run)


def _cell(row: Candidate, measure: Measure, footnotes: Footnotes) -> Cell:
    amount = row.amounts.get(measure.key)
    if amount is None:
        return footnotes.missing(row.missing.get(measure.key, NOT_MEASURED))
    low_high = None
    if amount.interval is not None:
        low_high = f"[{measure.text(amount.interval.low)}, {measure.text(amount.interval.high)}]"
    return Cell(
        measure.text(amount.value),
        note=None if amount.remark is None else footnotes.number(amount.remark),
        interval=low_high,
        beside=amount.mark,
    )


def _keys(rows: Iterable[Candidate]) -> tuple[str, ...]:
    """In the order of the columns; speeds by batch size."""
    speeds = {key for row in rows for key in (*row.amounts, *row.missing) if key.startswith(SPEED)}
    return (
        LOSS,
        ACCURACY,
        PERPLEXITY,
        DIVERGENCE,
        MEMORY,
        DISK,
        *sorted(speeds, key=lambda key: (len(key), key)),
        TIME,
    )


def _measure(key: str, amounts: Sequence[Amount]) -> Measure:
    finite = [abs(one.value) for one in amounts if math.isfinite(one.value)]
    largest = max(finite, default=1.0)
    if key.startswith(SPEED):
        return Measure(key, f"Speed, {key.removeprefix(SPEED).strip()}", "tokens/s", 1, True, "min")
    title, of, higher, limit = {
        LOSS: ("Loss", "fraction", False, "max"),
        ACCURACY: ("Accuracy", "fraction", True, "min"),
        PERPLEXITY: ("Perplexity", "", False, "max"),
        DIVERGENCE: ("KL from dense", "nats", False, "max"),
        MEMORY: ("Memory", "bytes", False, "max"),
        DISK: ("Disk", "bytes", False, "max"),
        TIME: ("Time to compress", "seconds", False, "max"),
    }[key]
    scales = _SCALES.get(of, ((1, of),))
    scale, unit = next((one for one in scales if largest >= one[0]), scales[-1])
    return Measure(key, title, unit, scale, higher, limit)
