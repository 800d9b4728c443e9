"""From a task and its rows to token requests: prompts, tokenisation, and what the answers make of an item.

`prepare` needs no weights, so it can run while the model loads.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, assert_never

from harness.contract import Frozen, ProtocolDetails
from harness.contract.tasks import (
    AnswersTask,
    AttackedTask,
    ChoiceTask,
    LetterTask,
    PerplexityTask,
    Task,
    TruthTask,
    WordPerplexityTask,
)
from harness.evaluation.prepared import PreparedTask

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

Row = dict[str, Any]
ItemT = TypeVar("ItemT", bound=Frozen)


@dataclass(frozen=True)
class ModelFacts:
    """What preparing needs to know of a model. `vocabulary_size` counts the rows of its embedding."""

    tokenizer: "PreTrainedTokenizerBase"
    context_length: int
    vocabulary_size: int

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig") -> "ModelFacts":
        """The facts that `config.json` and the tokenizer's files state."""
        return cls(tokenizer, int(config.max_position_embeddings), int(config.vocab_size))


class Prepared(PreparedTask[ItemT], Protocol[ItemT]):
    """A prepared task, with what its result has to say. `truncated` are the numbers of the items that
    lose the beginning of a context."""

    details: ProtocolDetails
    truncated: Collection[int]
    notes: tuple[str, ...]


def prepare(
    task: Task, rows: Mapping[str, Sequence[Row]], facts: ModelFacts, *, limit: int | None = None
) -> Prepared[Any]:
    """Prepare the first `limit` items of `task`. `rows` holds, by name, the splits that `task.splits` lists.

    Raises:
        Unsupported: the model cannot do the task, or another lm-eval is installed than the protocol names.
        MissingData: a split has no rows, no labels, or too little text.
        BadRequest: rows do not have the fields that the task needs.
        BadCheckpoint: the tokenizer gives tokens that the embedding has no row for.
    """
    from harness.evaluation.definitions.rows import require_rows

    require_rows(task, rows)
    match task:
        case ChoiceTask():
            from harness.evaluation.definitions.choice import prepare_choices

            return prepare_choices(task, rows, facts, limit=limit)
        case AttackedTask():
            from harness.evaluation.definitions.attacked import prepare_attacked

            return prepare_attacked(task, rows, facts, limit=limit)
        case TruthTask():
            from harness.evaluation.definitions.truth import prepare_truth

            return prepare_truth(task, rows, facts, limit=limit)
        case AnswersTask():
            from harness.evaluation.definitions.answers import prepare_answers

            return prepare_answers(task, rows, facts, limit=limit)
        case LetterTask():
            from harness.evaluation.definitions.letter import prepare_letters

            return prepare_letters(task, rows, facts, limit=limit)
        case PerplexityTask():
            from harness.evaluation.definitions.segments import prepare_segments

            return prepare_segments(task, rows, facts, limit=limit)
        case WordPerplexityTask():
            from harness.evaluation.definitions.documents import prepare_documents

            return prepare_documents(task, rows, facts, limit=limit)
        case _:
            assert_never(task)
