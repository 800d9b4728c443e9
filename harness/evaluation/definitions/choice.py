"""Multiple choice by lm-eval's definitions, one for the whole data set or one for each group of its rows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.contract import ProtocolDetails
from harness.contract.tasks import ChoiceTask
from harness.errors import MissingData
from harness.evaluation.definitions.lm_eval_task import LmEvalQuestions, require_version
from harness.evaluation.definitions.prepared_choices import Group, PreparedChoices
from harness.evaluation.definitions.rows import group_rows, share_limit

if TYPE_CHECKING:
    from harness.evaluation.definitions import ModelFacts

Row = dict[str, Any]


def prepare_choices(
    task: ChoiceTask, rows: Mapping[str, Sequence[Row]], facts: "ModelFacts", *, limit: int | None
) -> PreparedChoices:
    """See `harness.evaluation.definitions.prepare`."""
    groups, available = choice_groups(task, rows, limit=limit)
    scoring = "per-character" if task.metric == "acc_norm" else "summed"
    details = ProtocolDetails(scoring=scoring, shots=task.shots)
    return PreparedChoices(task, groups, facts, details, available=available)


def choice_groups(task: ChoiceTask, rows: Mapping[str, Sequence[Row]], *, limit: int | None) -> tuple[list[Group], int]:
    """The questions of each group, and how many rows there are without the limit.

    Raises:
        Unsupported: another version of lm-eval is installed than the protocol names.
        MissingData: a group has too few examples.
    """
    require_version(task.protocol, task.lm_eval_version)
    place = f"{task.dataset}/{task.split}"
    grouped = group_rows(rows[task.split], task.group_by, place)
    examples = group_rows(rows[task.shots_split], task.group_by, place) if task.shots_split else {}
    shares = share_limit([len(content) for content in grouped.values()], limit)
    groups = []
    for (name, content), share in zip(grouped.items(), shares, strict=True):
        if not share:
            continue
        shown = examples.get(name, [])
        if len(shown) < task.shots:
            raise MissingData(
                f"{task.dataset}/{task.shots_split} has {len(shown)} of the {task.shots} examples for {name}",
                hint=f"fetch the whole {task.shots_split} split of {task.dataset}",
            )
        groups.append(
            Group(
                name=name if task.group_by else None,
                rows=content[:share],
                questions=LmEvalQuestions(
                    task.definition.format(group=name),
                    content[:share],
                    source=place,
                    shots=task.shots,
                    examples=shown[: task.shots],
                ),
            )
        )
    return groups, len(rows[task.split])
