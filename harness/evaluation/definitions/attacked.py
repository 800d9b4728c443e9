"""Questions over attacked texts, and over the texts from before the attack where a row has them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.contract import ProtocolDetails
from harness.contract.tasks import AttackedTask
from harness.evaluation.definitions.lm_eval_task import LmEvalQuestions, require_version
from harness.evaluation.definitions.prepared_choices import Group, PreparedChoices
from harness.evaluation.definitions.questions import Questions
from harness.evaluation.definitions.rows import share_limit

if TYPE_CHECKING:
    from harness.evaluation.definitions import ModelFacts

Row = dict[str, Any]


def prepare_attacked(
    task: AttackedTask, rows: Mapping[str, Sequence[Row]], facts: "ModelFacts", *, limit: int | None
) -> PreparedChoices:
    """See `harness.evaluation.definitions.prepare`."""
    require_version(task.protocol, task.lm_eval_version)
    shares = share_limit([len(rows[split]) for split in task.splits], limit)
    groups = []
    for (split, definition), share in zip(task.parts.items(), shares, strict=True):
        if share:

            def make(content: Sequence[Row], split: str = split, definition: str = definition) -> Questions:
                return LmEvalQuestions(definition, content, source=f"{task.dataset}/{split}")

            groups.append(attacked_group(split, rows[split][:share], make, task.original_prefix))
    available = sum(len(rows[split]) for split in task.splits)
    return PreparedChoices(task, groups, facts, ProtocolDetails(scoring="summed"), available=available)


def attacked_group(name: str, rows: Sequence[Row], make: Callable[[Sequence[Row]], Questions], prefix: str) -> Group:
    """The questions that `make` builds of the rows as they are, and of what they were before the attack."""
    attacked = frozenset(place for place, row in enumerate(rows) if before_attack(row, prefix) != row)
    originals = make([before_attack(row, prefix) for row in rows]) if attacked else None
    return Group(name=name, rows=rows, questions=make(rows), originals=originals, attacked=attacked)


def before_attack(row: Row, prefix: str) -> Row:
    """The row with each text replaced by its original, the field of the same name after `prefix`, where it has one."""
    originals = {
        name.removeprefix(prefix): text
        for name, text in row.items()
        if name.startswith(prefix) and text is not None and name.removeprefix(prefix) in row
    }
    return {**row, **originals}
