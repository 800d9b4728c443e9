"""The tables of all that was measured, one a concern."""

import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache

from harness.contract import Operation
from orchestrator.evidence.measured import Figure, Number, StageFigures
from orchestrator.report.formats import MISSING, plural
from orchestrator.report.places import PLACES, Part, Several, Shown, Text
from orchestrator.report.table import Cell, Footnotes, Table, columns

_ROWS_WITHIN = "speeds."
"""What lies below is of an element of this list first, and then of whatever it is of."""

_MOST_NAMES = 3
_TAKEN_BY = "Memory taken by"
_WITH_METHOD = (Part.MEMORY, Part.COMPRESSING)
_Key = tuple[str, str, str]


def measured_tables(stages: Sequence[StageFigures], footnotes: Footnotes) -> tuple[Table, ...]:
    """A table for each part of which something was measured."""
    groups = repeats(stages)
    tables = (_table(part, groups, footnotes) for part in Part)
    return tuple(table for table in tables if table.rows)


def repeats(stages: Iterable[StageFigures]) -> tuple[Sequence[StageFigures], ...]:
    """The stages that measured the same again, together: what their figures are made one of."""
    groups: dict[tuple[object, ...], list[StageFigures]] = {}
    for stage in stages:
        alone = stage.stage if stage.model is None else None
        groups.setdefault((stage.operation, stage.variant, stage.model, stage.target, alone), []).append(stage)
    return tuple(groups.values())


def _table(part: Part, groups: Iterable[Sequence[StageFigures]], footnotes: Footnotes) -> Table:
    found: dict[_Key, dict[str, Cell]] = {}
    for stages in groups:
        for title, fields in _fields(stages[0].operation, part).items():
            if not any(one.absent or not fields.keys().isdisjoint(one.figures) for one in stages):
                continue
            for row, cell in _cells(stages, fields, footnotes).items():
                found.setdefault((*_about(stages[0]), _by(stages[0], row)), {})[title] = cell
        about = (*_about(stages[0]), _by(stages[0], ""))
        if part in _WITH_METHOD and about in found and (method := stages[0].memory_method) is not None:
            found[about][_TAKEN_BY] = Cell(method)
    titles = tuple(dict.fromkeys(title for operation in PLACES for title in _fields(operation, part)))
    used = tuple(title for title in (*titles, _TAKEN_BY) if any(title in cells for cells in found.values()))
    rows = tuple(
        (*map(Cell, key), *(cells.get(title, Cell(MISSING)) for title in used)) for key, cells in found.items()
    )
    return Table(part, columns("Variant", "Model", "Measured by", numbers=used), rows, headings=3)


@cache
def _fields(operation: Operation, part: Part) -> Mapping[str, Mapping[str, Shown]]:
    """The fields of each column."""
    by_title: dict[str, dict[str, Shown]] = {}
    for field, place in PLACES.get(operation, {}).items():
        if isinstance(place, Shown) and place.part is part:
            by_title.setdefault(place.title, {})[field] = place
    return by_title


def _about(stage: StageFigures) -> tuple[str, str]:
    return stage.variant.label if stage.variant else MISSING, stage.model or MISSING


def _by(stage: StageFigures, row: str) -> str:
    return " ".join(filter(None, (stage.target or (stage.operation if stage.model else stage.stage), row)))


def _cells(stages: Sequence[StageFigures], fields: Mapping[str, Shown], footnotes: Footnotes) -> dict[str, Cell]:
    """The cells of one column, by row: of all fields that share it, and of all stages that measured the same."""
    pieces = {field: _pieces(stages, field, place) for field, place in fields.items()}
    reasons = {row: reason for stage in stages for field in fields for row, reason in _reasons(stage, field)}
    made = {}
    for row in dict.fromkeys([*(row for found in pieces.values() for row in found), *reasons]):
        texts = [found.get(row) for found in pieces.values()]
        if any(texts):
            made[row] = Cell(" / ".join(text or MISSING for text in texts))
        else:
            made[row] = footnotes.missing(reasons[row])
    return made


def _reasons(stage: StageFigures, field: str) -> Iterator[tuple[str, str]]:
    """Why the field is missing, by row."""
    for missing, of in stage.absent.items():
        if field == missing or field.startswith(f"{missing}."):
            for label, reason in of.items():
                yield _split(field, label, several=False)[0], reason


def _pieces(stages: Sequence[StageFigures], field: str, place: Shown) -> dict[str, str]:
    """What the cells say of one field, by row."""
    several = place.several is not Several.ROWS
    rows: dict[str, dict[str, list[Figure]]] = {}
    for stage in stages:
        for label, figure in stage.figures.get(field, {}).items():
            row, name = _split(field, label, several=several)
            rows.setdefault(row, {}).setdefault(name, []).append(figure)
    return {row: _text(place, figures) for row, figures in rows.items()}


def _split(field: str, label: str, *, several: bool) -> tuple[str, str]:
    """The row, and within its cell the name."""
    if field.startswith(_ROWS_WITHIN):
        row, _, name = label.partition(", ")
        return (row, name) if several else (label, "")
    return ("", label) if several else (label, "")


def _text(place: Shown, figures: Mapping[str, Sequence[Figure]]) -> str:
    if place.several is Several.LISTED:
        return ", ".join(f"{name} {_figures_text(several, place.text)}" for name, several in figures.items())
    if place.several is Several.TOTAL:
        total = sum(_middle(several) for several in figures.values())
        return f"{place.text(total)} in {len(figures)}"
    if place.several is Several.SPREAD:
        middles = {name: _middle(several) for name, several in figures.items()}
        most = max(middles, key=lambda name: middles[name])
        ends = (min(middles.values()), statistics.median(middles.values()), middles[most])
        return f"{' / '.join(map(place.text, ends))} ({most})"
    (several,) = figures.values()
    return _figures_text(several, place.text)


def _middle(figures: Sequence[Figure]) -> float:
    return statistics.median(_numbers(figures))


def _numbers(figures: Iterable[Figure]) -> list[Number]:
    return [number for one in figures for number in (one if isinstance(one, tuple) else (one,))]


def _figures_text(figures: Sequence[Figure], text: Text) -> str:
    """One number as it is; of several, of a list or of repeated stages, the median and the ends."""
    numbers = _numbers(figures)
    if all(isinstance(number, bool) for number in numbers):
        yes = sum(numbers)
        return "yes" if yes == len(numbers) else "no" if yes == 0 else f"yes in {yes} of {len(numbers)}"
    is_list = any(isinstance(one, tuple) for one in figures)
    if len(numbers) == 1 or (len(set(numbers)) == 1 and not is_list):
        return text(numbers[0])
    ends = f"{text(min(numbers))} to {text(max(numbers))}"
    return f"{text(statistics.median(numbers))} ({ends} in {plural(len(numbers), 'run')})"


def remarks(stages: Iterable[StageFigures]) -> tuple[str, ...]:
    """Every note of every result once, with what it is a note on."""
    by_note: dict[str, dict[str, dict[str, None]]] = {}
    for stage in stages:
        about = f"{stage.variant.label} of {stage.model}" if stage.variant and stage.model else stage.stage
        for note in stage.notes:
            by_note.setdefault(note, {}).setdefault(about, {})[_by(stage, "")] = None
    return tuple(
        f"{note} ({'; '.join(f'{about}: {_short(by)}' for about, by in where.items())})"
        for note, where in by_note.items()
    )


def _short(names: Collection[str]) -> str:
    return ", ".join(names) if len(names) <= _MOST_NAMES else plural(len(names), "measurement")
