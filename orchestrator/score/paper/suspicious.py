"""Printed cells that disagree with another table or with the methods' authors: used as they stand, but named."""

from importlib.resources import files

from pydantic import TypeAdapter

from harness.contract import Frozen


class SuspiciousCell(Frozen):
    """`table` is a name of `TABLE_NAMES`; the value is the one that the table holds."""

    table: str
    model: str
    method: str
    setting: str
    column: str
    value: float
    reason: str


_CELLS: TypeAdapter[tuple[SuspiciousCell, ...]] = TypeAdapter(tuple[SuspiciousCell, ...])


def suspicious_cells() -> tuple[SuspiciousCell, ...]:
    return _CELLS.validate_json((files("orchestrator.score.paper") / "suspicious.json").read_bytes())
