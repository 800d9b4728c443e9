"""TruthfulQA's multiple choice: both scores from one pass over the same prompts, here by lm-eval's definitions."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from harness.contract import ProtocolDetails
from harness.contract.items import TruthItem
from harness.contract.tasks import AnswersTask, TruthTask
from harness.errors import BadRequest
from harness.evaluation.definitions.encoding import TextEncoder
from harness.evaluation.definitions.lm_eval_task import LmEvalQuestions, require_version
from harness.evaluation.definitions.prepared_choices import EncodedItem, Group, PairEncoder, PreparedChoices
from harness.evaluation.definitions.questions import Questions

if TYPE_CHECKING:
    from harness.evaluation.definitions import ModelFacts

Row = dict[str, Any]


class QuestionsOfBoth(Questions, Protocol):
    """Questions whose pairs are MC1's choices, then MC2's."""

    def mc1_choices(self, place: int) -> int:
        """How many of the pairs are MC1's."""
        ...

    def mc2_true(self, place: int) -> tuple[int, ...]:
        """The numbers of MC2's true choices."""
        ...


class TruthQuestions:
    """MC1: the likeliest choice is the true one. MC2: the true choices' share of the likelihood of all."""

    def __init__(self, task: TruthTask, rows: Sequence[Row]) -> None:
        self._source = f"{task.dataset}/{task.split}"
        self._rows = rows
        self._mc1 = LmEvalQuestions(task.mc1_definition, rows, source=self._source)
        self._mc2 = LmEvalQuestions(task.mc2_definition, rows, source=self._source)

    def pairs(self, place: int) -> list[tuple[str, str]]:
        return self._mc1.pairs(place) + self._mc2.pairs(place)

    def gold(self, place: int) -> int | None:
        return self._mc1.gold(place)

    def lengths(self, place: int) -> list[int] | None:
        return None

    def mc1_choices(self, place: int) -> int:
        return len(self._mc1.choices(place))

    def mc2_true(self, place: int) -> tuple[int, ...]:
        """The numbers of MC2's true choices.

        Raises:
            BadRequest: its labels do not fit its choices, or say that all or none are true.
        """
        labels = self._rows[place]["mc2_targets"]["labels"]
        true = tuple(number for number, label in enumerate(labels) if label == 1)
        if len(labels) != len(self._mc2.choices(place)) or not 0 < len(true) < len(labels):
            raise BadRequest(
                f"row {place} of {self._source} has labels in mc2_targets that do not tell true choices from false",
                hint="fetch the data set again",
            )
        return true

    def correct(self, place: int, log_likelihoods: Sequence[float]) -> dict[str, float]:
        """lm-eval's `acc` of both tasks."""
        first = self.mc1_choices(place)
        return {
            "mc1": self._mc1.correct(place, log_likelihoods[:first])["acc"],
            "mc2": share_of(log_likelihoods[first:], self.mc2_true(place)),
        }


class PreparedTruth(PreparedChoices):
    """See `harness.evaluation.definitions.Prepared`. An item's requests are MC1's choices, then MC2's."""

    def __init__(
        self,
        task: TruthTask | AnswersTask,
        rows: Sequence[Row],
        facts: "ModelFacts",
        questions: QuestionsOfBoth,
        details: ProtocolDetails,
        *,
        available: int,
        encode: PairEncoder = TextEncoder.encode_pairs,
    ) -> None:
        self._questions = questions
        super().__init__(task, [Group(None, rows, questions)], facts, details, available=available, encode=encode)
        self.item_type = TruthItem

    def _more(self, item: EncodedItem) -> dict[str, Any]:
        return {
            "mc1_choices": self._questions.mc1_choices(item.place),
            "mc2_true": self._questions.mc2_true(item.place),
        }

    def _picks(
        self, item: EncodedItem, log_likelihoods: Sequence[float], lengths: Sequence[int] | None
    ) -> dict[str, int]:
        return super()._picks(item, log_likelihoods[: self._questions.mc1_choices(item.place)], lengths)


def prepare_truth(
    task: TruthTask, rows: Mapping[str, Sequence[Row]], facts: "ModelFacts", *, limit: int | None
) -> PreparedTruth:
    """See `harness.evaluation.definitions.prepare`."""
    require_version(task.protocol, task.lm_eval_version)
    content = rows[task.split]
    questions = TruthQuestions(task, content[:limit])
    details = ProtocolDetails(scoring="summed")
    return PreparedTruth(task, content[:limit], facts, questions, details, available=len(content))


def share_of(log_likelihoods: Sequence[float], true: Sequence[int]) -> float:
    """The true ones' share of the likelihood of all, taken relative to the largest so that none underflows."""
    largest = max(log_likelihoods)
    weights = [math.exp(value - largest) for value in log_likelihoods]
    return sum(weights[number] for number in true) / sum(weights)
