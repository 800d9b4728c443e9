"""The printed tables: rows, the overall metrics beside them, how they become values; and cells that are in doubt."""

from collections.abc import Callable
from importlib.resources import files

from pydantic import NonNegativeFloat, NonNegativeInt, TypeAdapter

from harness.contract import Frozen
from orchestrator.evidence.value import Value, Values, Variant
from orchestrator.tracks import Expectation, Place, Track

TABLE_NAMES = ("track1", "track2", "track2_int8", "track3", "track4", "track5", "track6")


class Column(Frozen):
    """A column of the table and where it enters the track's score. `decimals` is what the table prints."""

    column: str
    part: str
    name: str
    unit: str
    decimals: NonNegativeInt
    higher_is_better: bool


class Tolerance(Frozen):
    """How far a recomputed score may be from the printed one, whichever of the two bounds is wider."""

    absolute: NonNegativeFloat
    relative: NonNegativeFloat
    reason: str

    def bound(self, published: float) -> float:
        return max(self.absolute, self.relative * published)


class Row(Frozen):
    """One model under one method; `values` by column. Without a method, the dense model."""

    model: str
    family: str | None = None
    method: str | None
    setting: str | None
    values: dict[str, float]


class PublishedScore(Frozen):
    """A printed overall metric; of one part where `part` is given."""

    score: str
    part: str | None
    method: str
    setting: str
    value: float
    note: str = ""

    @property
    def variant(self) -> Variant:
        return Variant(method=self.method, setting=self.setting)


class PaperTable(Frozen):
    """`printed_scale` is 100 where the table prints its metrics as percentages, 1 where as plain ratios."""

    track: Track
    source: str
    printed_scale: NonNegativeFloat
    tolerance: Tolerance
    notes: tuple[str, ...] = ()
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    published: tuple[PublishedScore, ...]

    @property
    def expectation(self) -> Expectation:
        parts: dict[str, tuple[str, ...]] = {}
        for column in self.columns:
            parts[column.part] = (*parts.get(column.part, ()), column.name)
        return Expectation(
            track=self.track,
            models=tuple(dict.fromkeys(row.model for row in self.rows)),
            parts=parts,
            families={row.model: row.family for row in self.rows if row.family is not None},
        )

    def values(self, moved: Callable[[float, Row, Column], float] = lambda value, row, column: value) -> Values:
        """Every printed value, each first passed through `moved`."""
        return Values(
            Value(
                place=Place(track=self.track, part=column.part, name=column.name, model=row.model),
                variant=Variant(method=row.method, setting=row.setting),
                value=moved(row.values[column.column], row, column),
                unit=column.unit,
                higher_is_better=column.higher_is_better,
                source=self.source,
            )
            for row in self.rows
            for column in self.columns
        )


def load_table(name: str) -> PaperTable:
    """One of `TABLE_NAMES`.

    Raises:
        KeyError: there is no such table.
    """
    if name not in TABLE_NAMES:
        raise KeyError(name)
    return PaperTable.model_validate_json((files("orchestrator.score.paper") / f"{name}.json").read_bytes())


def load_tables() -> dict[str, PaperTable]:
    return {name: load_table(name) for name in TABLE_NAMES}


class SuspiciousCell(Frozen):
    """A printed cell that disagrees with another table or with the method's authors: used as it stands, but named.

    `table` is a name of `TABLE_NAMES`; the value is the one that the table holds.
    """

    table: str
    model: str
    method: str
    setting: str
    column: str
    value: float
    reason: str


class SuspiciousColumn(Frozen):
    """What is in doubt of a whole column, for each of `models`: used as it stands, but named."""

    table: str
    column: str
    models: tuple[str, ...]
    reason: str


class ColumnProtocol(Frozen):
    """How the paper took the figures of some columns, as far as its text, its code and the figures show it.

    `here` names the protocol, task or field of this project that is nearest.
    """

    tables: tuple[str, ...]
    columns: tuple[str, ...]
    protocol: str
    here: str


_PROTOCOLS: TypeAdapter[tuple[ColumnProtocol, ...]] = TypeAdapter(tuple[ColumnProtocol, ...])
_COLUMNS: TypeAdapter[tuple[SuspiciousColumn, ...]] = TypeAdapter(tuple[SuspiciousColumn, ...])
_CELLS: TypeAdapter[tuple[SuspiciousCell, ...]] = TypeAdapter(tuple[SuspiciousCell, ...])


def suspicious_cells() -> tuple[SuspiciousCell, ...]:
    return _CELLS.validate_json((files("orchestrator.score.paper") / "suspicious.json").read_bytes())


def suspicious_columns() -> tuple[SuspiciousColumn, ...]:
    return _COLUMNS.validate_json((files("orchestrator.score.paper") / "suspicious_columns.json").read_bytes())


def column_protocols() -> tuple[ColumnProtocol, ...]:
    return _PROTOCOLS.validate_json((files("orchestrator.score.paper") / "protocols.json").read_bytes())
