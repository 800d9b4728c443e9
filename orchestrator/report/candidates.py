"""The candidates of a decision as tables: what was measured of each, and how it stands."""

from orchestrator.decide.answer import Answer, CandidateEntry, Choice
from orchestrator.manifest.deciding import Quantity
from orchestrator.report.formats import interval_text, value_text
from orchestrator.report.table import Cell, Footnotes, Table, columns

_TITLES = {
    Quantity.LOSS: "Loss",
    Quantity.MEMORY: "Memory",
    Quantity.DISK: "Disk",
    Quantity.SPEED: "Speed",
    Quantity.TIME: "Time to compress",
}


def amounts_table(answer: Answer, footnotes: Footnotes) -> Table:
    """A row for each candidate, with what was measured of it."""
    shown = [one for one in Quantity if any(entry.amount(one) is not None for entry in answer.candidates)]
    rows = tuple(
        (
            *_heading(entry.choice),
            *(_amount_cell(entry, quantity, footnotes) for quantity in shown),
        )
        for entry in _shown(answer)
    )
    titles = columns("Variant", "Through", numbers=tuple(_TITLES[one] for one in shown))
    return Table(f"What was measured of {answer.model}", titles, rows, 2)


def _shown(answer: Answer) -> list[CandidateEntry]:
    """Each variant through what has figures of it; through nothing, where nothing has: the reasons are listed below."""
    served = {id(one) for one in answer.candidates if one.amount(Quantity.MEMORY) or one.amount(Quantity.SPEED)}
    known = {one.choice.variant for one in answer.candidates if id(one) in served}
    found, bare = [], set()
    for one in answer.candidates:
        variant = one.choice.variant
        if id(one) in served:
            found.append(one)
        elif variant not in known and variant not in bare:
            bare.add(variant)
            found.append(one.model_copy(update={"choice": Choice(variant=variant)}))
    return found


def _heading(choice: Choice) -> tuple[Cell, Cell]:
    return Cell(choice.variant.label), Cell(choice.backend or "")


def _amount_cell(entry: CandidateEntry, quantity: Quantity, footnotes: Footnotes) -> Cell:
    amount = entry.amount(quantity)
    if amount is None:
        return footnotes.missing(entry.missing.get(quantity, "not measured"))
    note = None if amount.interval_reason is None else footnotes.number(amount.interval_reason)
    interval = None if amount.interval is None else interval_text(amount.interval, amount.unit)
    return Cell(value_text(amount.value, amount.unit), note=note, interval=interval)


def standing_table(answer: Answer, footnotes: Footnotes) -> Table:
    """A row for each candidate: whether it keeps each limit, and how it ranks."""
    limits = [one.quantity for one in answer.candidates[0].limits] if answer.candidates else []
    rows = tuple(
        (
            *_heading(entry.choice),
            Cell(entry.standing.value),
            *(_limit_cell(entry, quantity, footnotes) for quantity in limits),
            Cell(_share(entry.pareto)),
            Cell(
                "" if entry.utility is None else f"{entry.utility:+.2f}",
                interval=None if (ends := entry.utility_interval) is None else f"[{ends.low:+.2f}, {ends.high:+.2f}]",
            ),
            Cell(_share(entry.best)),
            Cell("" if entry.group is None else str(entry.group)),
        )
        for entry in _shown(answer)
    )
    kept = tuple(f"Keeps {_TITLES[one].lower()}" for one in limits)
    titles = (*columns("Variant", "Through", "Stands", *kept), *columns(numbers=("Pareto", "Utility", "Best", "Group")))
    return Table(f"How they stand for {answer.model}", titles, rows, 2)


def _limit_cell(entry: CandidateEntry, quantity: Quantity, footnotes: Footnotes) -> Cell:
    limit = entry.limit(quantity)
    if limit is None:
        return Cell("")
    note = None if limit.reason is None else footnotes.number(limit.reason)
    beside = None if limit.probability is None else f"({_share(limit.probability)})"
    return Cell(limit.verdict.value, note=note, beside=beside)


def _share(probability: float | None) -> str:
    """In percent; never 0 or 100 where draws are not all alike."""
    if probability is None:
        return ""
    if 0 < probability < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < probability < 1 else f"{probability:.0%}".replace("%", " %")
