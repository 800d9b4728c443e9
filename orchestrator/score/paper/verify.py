"""Recomputes every overall metric that the paper prints, from the values it prints beside it."""

from enum import StrEnum

from harness.contract import Frozen
from orchestrator.evidence.value import Values
from orchestrator.score.overall import score
from orchestrator.score.paper.tables import Column, PaperTable, PublishedScore, Row, load_tables
from orchestrator.tracks import Mode, Track

PRINTED_DECIMALS = 2
_LAST_DIGIT = 10.0**-PRINTED_DECIMALS
_FLOAT_NOISE = 1e-9


class Verdict(StrEnum):
    """`reproduced`: equal to the second decimal. `rounding`: not that, but within the tolerance that the table's file
    states, with its reason. `inconsistent`: outside it, so that the score or a value beside it is wrong."""

    REPRODUCED = "reproduced"
    ROUNDING = "rounding"
    INCONSISTENT = "inconsistent"


class PaperRow(Frozen):
    """One printed score and what comes out, both on the table's own scale.

    `rounding_explains` is stricter than the verdict: true where moving every printed value by half its last digit can
    reach the printed score.
    """

    track: Track
    score: str
    method: str
    setting: str
    published: float
    recomputed: float
    tolerance: float
    verdict: Verdict
    rounding_explains: bool
    source: str
    note: str = ""

    @property
    def difference(self) -> float:
        return self.recomputed - self.published


def verify() -> tuple[PaperRow, ...]:
    """Every printed overall metric, in the order of the tables."""
    return tuple(row for table in load_tables().values() for row in verify_table(table))


def verify_table(table: PaperTable) -> tuple[PaperRow, ...]:
    """The overall metrics that one table prints, in its order."""
    return tuple(_verify(table, published) for published in table.published)


def _verify(table: PaperTable, published: PublishedScore) -> PaperRow:
    recomputed = _recompute(table, published, table.values())
    tolerance = table.tolerance.bound(published.value)
    return PaperRow(
        track=table.track,
        score=published.score,
        method=published.method,
        setting=published.setting,
        published=published.value,
        recomputed=recomputed,
        tolerance=tolerance,
        verdict=_judge(published.value, recomputed, tolerance),
        rounding_explains=_lowest(table, published) <= published.value <= _highest(table, published),
        source=table.source,
        note=published.note,
    )


def _judge(published: float, recomputed: float, tolerance: float) -> Verdict:
    if abs(round(recomputed, PRINTED_DECIMALS) - published) < _FLOAT_NOISE:
        return Verdict.REPRODUCED
    if abs(recomputed - published) <= tolerance + _FLOAT_NOISE:
        return Verdict.ROUNDING
    return Verdict.INCONSISTENT


def _recompute(table: PaperTable, published: PublishedScore, values: Values) -> float:
    scored = score(table.expectation, published.variant, values, mode=Mode.PAPER)
    value = scored.value if published.part is None else scored.part(published.part).value
    if value is None or scored.is_partial:
        raise ValueError(f"{table.source} does not hold what {published.score} of {published.variant.label} is made of")
    return value * table.printed_scale / 100


def _lowest(table: PaperTable, published: PublishedScore) -> float:
    """The least score that the unprinted digits allow, less the last digit for a score cut off or rounded."""
    return _recompute(table, published, _moved(table, published, towards_better=-1)) - _LAST_DIGIT


def _highest(table: PaperTable, published: PublishedScore) -> float:
    return _recompute(table, published, _moved(table, published, towards_better=1)) + _LAST_DIGIT


def _moved(table: PaperTable, published: PublishedScore, *, towards_better: int) -> Values:
    """This variant's values half a digit better (1) or worse (-1), and what they are compared with the other way."""

    def move(value: float, row: Row, column: Column) -> float:
        is_own = (row.method, row.setting) == (published.method, published.setting)
        is_up = (towards_better == 1) == (is_own == column.higher_is_better)
        half_digit = 10.0**-column.decimals / 2
        return value + half_digit if is_up else value - half_digit

    return table.values(move)
