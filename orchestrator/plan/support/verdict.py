"""A table's answer about a checkpoint, also where not everything about the checkpoint is known yet."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.contract import CheckpointFormat, Reason
from orchestrator.plan.support.table import Answer, Checkpoint, SupportRow, SupportTable

_BOTH = (False, True)
_BOOLEAN = ("symmetric", "activation_order", "zeros")
_OTHER = object()
"""Stands for every value that no row names."""


@dataclass(frozen=True)
class Served:
    """`as_dense`: without any gain from the compression, as `message` says."""

    message: str
    source: str
    as_dense: bool = False


@dataclass(frozen=True)
class Refused:
    reason: Reason
    message: str
    source: str


def judge(table: SupportTable, checkpoint: Checkpoint) -> Served | Refused:
    """Refused only where every checkpoint that this one may turn out to be is: the worker checks the rest."""
    if checkpoint.device is not None and checkpoint.device not in table.versions:
        kind = checkpoint.device.value
        here = " and ".join(one.value for one in table.versions)
        return Refused(
            Reason.DEVICE, f"{table.backend} does not run on {kind}, but on {here}", f"the image of {table.backend}"
        )
    candidates = list(possible(table, checkpoint))
    verdicts = [deciding_row(table, properties) for properties in candidates]
    granted = [row for row in verdicts if row is not None and row.answer is not Answer.NO]
    if granted:
        best = next((row for row in granted if row.answer is Answer.YES), granted[0])
        return Served(best.message, best.source, as_dense=best.answer is Answer.AS_DENSE)
    refusing = [row for row in verdicts if row is not None]
    if not refusing:
        return Refused(
            Reason.FORMAT,
            f"the support table of {table.backend} has no answer for {checkpoint.format.value} weights",
            "the table itself: nobody has looked",
        )
    everywhere = [row for row in refusing if all(row.holds(properties) for properties in candidates)]
    row = everywhere[0] if everywhere else max(refusing, key=refusing.count)
    assert row.reason is not None  # noqa: S101  every no has one
    return Refused(row.reason, row.message, row.source)


def deciding_row(table: SupportTable, properties: dict[str, Any]) -> SupportRow | None:
    """The row that counts for a checkpoint of which everything is known; None where none holds."""
    holding = [row for row in table.rows if row.holds(properties)]
    order = (
        lambda row: row.answer is Answer.NO and not row.otherwise,
        lambda row: row.answer is Answer.AS_DENSE,
        lambda row: row.answer is Answer.YES,
        lambda row: row.otherwise,
    )
    return next((row for counts in order for row in holding if counts(row)), None)


def possible(table: SupportTable, checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    """Every checkpoint, of those that a row tells apart, that this one may be: its unknown properties in all ways."""
    rows = [row for row in table.rows if _may_hold(row, checkpoint)]
    known = {about: [value] for about, value in checkpoint if value is not None}
    open_properties = {
        about: _values(rows, about)
        for about in dict.fromkeys(about for row in table.rows for about in row.conditions)
        if about not in known
    }
    choices = known | open_properties
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def every_checkpoint(table: SupportTable) -> Iterator[dict[str, Any]]:
    """All checkpoints that the table tells apart, of every format."""
    for checkpoint_format in CheckpointFormat:
        yield from possible(table, Checkpoint(format=checkpoint_format))


def _may_hold(row: SupportRow, checkpoint: Checkpoint) -> bool:
    return all(
        value in allowed
        for about, allowed in row.conditions.items()
        if (value := getattr(checkpoint, about)) is not None
    )


def _values(rows: Sequence[SupportRow], about: str) -> list[Any]:
    """What a property can be, as far as these rows tell it apart."""
    named = list(dict.fromkeys(value for row in rows for value in row.conditions.get(about, ())))
    if not named:
        return [_OTHER]
    return list(_BOTH) if about in _BOOLEAN else [*named, _OTHER]
