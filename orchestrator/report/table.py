"""Tables as data, before any of the renderers gives them a form."""

from dataclasses import dataclass, field

from orchestrator.report.formats import MISSING


@dataclass(frozen=True)
class Cell:
    """`note` is the number of the footnote that explains the cell; `full` is the whole of a shortened text.

    `interval` is where the cell's figure lies, as text; `beside` what stands next to it for comparison.
    """

    text: str
    note: int | None = None
    full: str | None = None
    interval: str | None = None
    beside: str | None = None

    @property
    def is_missing(self) -> bool:
        return self.text == MISSING

    @property
    def figure(self) -> str:
        return self.text if self.note is None else f"{self.text} [{self.note}]"

    def __str__(self) -> str:
        return " ".join((self.figure, *self.below))

    @property
    def below(self) -> tuple[str, ...]:
        """What stands below the figure, or behind it, where that is all on one line."""
        return tuple(text for text in (self.interval, self.beside) if text is not None)


@dataclass(frozen=True)
class Column:
    title: str
    is_number: bool = False


@dataclass(frozen=True)
class Table:
    """`headings` is the number of leading columns that name the row."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    headings: int = 1

    def split(self, most: int) -> tuple["Table", ...]:
        """The same in tables of at most `most` columns beyond the headings, for where there is no room for all."""
        begins = range(self.headings, len(self.columns), most)
        return tuple(
            Table(
                self.title if begin == self.headings else f"{self.title}, continued",
                self.columns[: self.headings] + self.columns[begin : begin + most],
                tuple(row[: self.headings] + row[begin : begin + most] for row in self.rows),
                self.headings,
            )
            for begin in begins
        )


@dataclass
class Footnotes:
    """Reasons, numbered from 1 in the order of their first use; the same reason keeps its number."""

    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, reason: str) -> int:
        return self._numbers.setdefault(reason, len(self._numbers) + 1)

    def missing(self, reason: str) -> Cell:
        return Cell(MISSING, note=self.number(reason))

    @property
    def entries(self) -> tuple[tuple[int, str], ...]:
        return tuple((number, reason) for reason, number in self._numbers.items())


def columns(*titles: str, numbers: tuple[str, ...] = ()) -> tuple[Column, ...]:
    """Text columns, then number columns."""
    return (*(Column(title) for title in titles), *(Column(title, is_number=True) for title in numbers))


def cells(*texts: str) -> tuple[Cell, ...]:
    return tuple(Cell(text) for text in texts)
