"""Which rows become items: the splits that are there, the share of each group under a limit, and what is left out."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from harness.contract import Reason
from harness.contract.items import UNLABELLED
from harness.contract.tasks import Task
from harness.errors import BadRequest, MissingData, Unsupported, WorkerError

Row = dict[str, Any]

NO_TOKENS = "choice_without_tokens"
"""A choice is empty, or the tokenizer makes nothing of it, so that it has no likelihood (by its length)."""

TOO_LONG = "choice_longer_than_context"
"""A choice has more tokens than the model takes, so that no context would be left to score it in."""


def require_rows(task: Task, rows: Mapping[str, Sequence[Row]]) -> None:
    """Check that every split that the task reads has rows.

    Raises:
        MissingData: one has none.
    """
    missing = [split for split in task.splits if not rows.get(split)]
    if missing:
        has = ", ".join(name for name, content in rows.items() if content) or "none"
        raise MissingData(
            f"{task.dataset} has no rows of the split {missing[0]!r}, which {task.name} reads; it has: {has}",
            hint=f"fetch {task.dataset} from a source with its {missing[0]} split",
        )


def group_rows(rows: Sequence[Row], field: str | None, place: str) -> dict[str, list[Row]]:
    """Rows by the value of `field`, in order of first appearance; one group called `place` without a field.

    Raises:
        BadRequest: a row has no such field.
    """
    if field is None:
        return {place: list(rows)}
    groups: dict[str, list[Row]] = {}
    try:
        for value, content in groupby(rows, key=lambda row: str(row[field])):
            groups.setdefault(value, []).extend(content)
    except KeyError as absent:
        raise BadRequest(
            f"a row of {place} has no field {field!r}", hint="fetch the data set again; fields are named as on the hub"
        ) from absent
    return groups


def share_limit(counts: Sequence[int], limit: int | None) -> list[int]:
    """How many of the first rows of each group are taken: dealt out one to each group in turn until `limit` are."""
    if limit is None or limit >= sum(counts):
        return list(counts)
    shares = [0] * len(counts)
    left = limit
    while left > 0:
        open_groups = [place for place, count in enumerate(counts) if shares[place] < count]
        for place in open_groups[:left]:
            shares[place] += 1
        left -= min(left, len(open_groups))
    return shares


def nothing_left(task: Task, excluded: Mapping[str, int]) -> WorkerError:
    """The error for a task of which no item can be scored, from the most frequent reason."""
    reason = max(excluded, key=lambda name: excluded[name])
    where = f"{task.dataset}/{', '.join(task.splits)}"
    if reason == UNLABELLED:
        return MissingData(
            f"none of the {excluded[reason]} rows asked for of {where} has a label",
            hint="take a split or a source with gold labels: GLUE keeps those of its test sets secret",
        )
    return Unsupported(
        Reason.SHAPE,
        f"no item of {where} can be scored ({reason} in {excluded[reason]} of them)",
        hint="use a model with a longer context, or check its tokenizer",
    )
