"""TruthfulQA as the LLMCBench paper's published code scores it: by the lists of answers in TruthfulQA's own CSV.

Source of the rule: `evaluate_tQA.py` of github.com/AboveParadise/LLMCBench at 6933195.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.contract import ProtocolDetails
from harness.contract.tasks import AnswersTask
from harness.errors import BadRequest
from harness.evaluation.definitions.encoding import EncodedPair, TextEncoder, Tokens
from harness.evaluation.definitions.lm_eval_task import LmEvalQuestions, require_version
from harness.evaluation.definitions.truth import PreparedTruth, share_of

if TYPE_CHECKING:
    from harness.evaluation.definitions import ModelFacts

Row = dict[str, Any]

ANSWER_MARK = "\nA:"
"""Stands between question and answer; the code takes it for `left_out_tokens` tokens, whatever the tokenizer."""
_FIELDS = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")


class AnswerQuestions:
    """MC1: the best answer is likelier than every false one. MC2: the true answers' share of the likelihood of all.

    MC1's choices are the false answers, then the best one, so that a tie is not in its favour.
    """

    def __init__(self, task: AnswersTask, rows: Sequence[Row]) -> None:
        source = f"{task.dataset}/{task.split}"
        self._answers = [_Answers(row, f"row {place} of {source}") for place, row in enumerate(rows)]
        asked = [
            {"question": row["Question"], "mc1_targets": {"choices": [*answers.true, *answers.false]}}
            for row, answers in zip(rows, self._answers, strict=True)
        ]
        self._prompts = LmEvalQuestions(task.definition, asked, source=source)

    def pairs(self, place: int) -> list[tuple[str, str]]:
        context = self._prompts.pairs(place)[0][0].removesuffix(ANSWER_MARK)
        found = self._answers[place]
        answers = (*found.false, found.best, *found.true, *found.false)
        return [(context, f"{ANSWER_MARK} {answer}") for answer in answers]

    def gold(self, place: int) -> int | None:
        return len(self._answers[place].false)

    def lengths(self, place: int) -> list[int] | None:
        return None

    def mc1_choices(self, place: int) -> int:
        return len(self._answers[place].false) + 1

    def mc2_true(self, place: int) -> tuple[int, ...]:
        return tuple(range(len(self._answers[place].true)))

    def correct(self, place: int, log_likelihoods: Sequence[float]) -> dict[str, float]:
        first = self.mc1_choices(place)
        *false, best = log_likelihoods[:first]
        return {"mc1": float(best > max(false)), "mc2": share_of(log_likelihoods[first:], self.mc2_true(place))}


class _Answers:
    """The answers of one row, each with a full stop at its end."""

    def __init__(self, row: Row, where: str) -> None:
        if lacking := [name for name in _FIELDS if not str(row.get(name) or "").strip()]:
            raise BadRequest(f"{where} has no {lacking[0]!r}", hint="its fields are the columns of TruthfulQA.csv")
        self.true, self.false = (_listed(row[name]) for name in ("Correct Answers", "Incorrect Answers"))
        self.best = _closed(row["Best Answer"])
        if not self.true or not self.false:
            raise BadRequest(f"{where} has no true or no false answer", hint="answers are separated by semicolons")


def prepare_answers(
    task: AnswersTask, rows: Mapping[str, Sequence[Row]], facts: "ModelFacts", *, limit: int | None
) -> PreparedTruth:
    """See `harness.evaluation.definitions.prepare`."""
    require_version(task.protocol, task.lm_eval_version)
    content = rows[task.split]
    split = _Split(task.left_out_tokens)
    questions = AnswerQuestions(task, content[:limit])
    details = ProtocolDetails(scoring=f"summed-after-{task.left_out_tokens}")
    prepared = PreparedTruth(
        task, content[:limit], facts, questions, details, available=len(content), encode=split.encode
    )
    prepared.details = details
    prepared.notes = split.notes(facts)
    return prepared


class _Split:
    """Tokens without special ones: what follows the question's own number of them counts, less the first `left_out`."""

    def __init__(self, left_out: int) -> None:
        self._left_out = left_out
        self._tails: dict[tuple[str, str], tuple[int, ...]] = {}

    def encode(self, encoder: TextEncoder, pairs: Sequence[tuple[str, str]]) -> list[EncodedPair]:
        contexts = _encoded(encoder, [context for context, _ in pairs])
        wholes = _encoded(encoder, [context + continuation for context, continuation in pairs])
        found = []
        for context, continuation in pairs:
            whole, begins = wholes[context + continuation], len(contexts[context]) + self._left_out
            self._tails[context, continuation] = tuple(whole[len(contexts[context]) : begins].tolist())
            found.append(EncodedPair(whole[:begins], whole[begins:]))
        return found

    def notes(self, facts: "ModelFacts") -> tuple[str, ...]:
        """In how many answers the tokens that are left out hold more than the mark before the answer."""
        texts = {tail: str(facts.tokenizer.decode(list(tail))) for tail in self._tails.values()}
        cut = sum(len(texts[tail].strip()) > len(ANSWER_MARK.strip()) for tail in self._tails.values())
        if not cut:
            return ()
        return (
            f"the first {self._left_out} tokens, which the paper's rule takes for the mark before an answer, hold a "
            f"part of the answer itself in {cut} of {len(self._tails)} answers",
        )


def _encoded(encoder: TextEncoder, texts: Sequence[str]) -> dict[str, Tokens]:
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, encoder.encode(distinct, special=False), strict=True))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(_closed(answer) for answer in text.split(";") if answer.strip())


def _closed(answer: str) -> str:
    stripped = answer.strip()
    return stripped if stripped.endswith(".") else f"{stripped}."
