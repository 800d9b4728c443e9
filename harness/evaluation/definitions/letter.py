"""The paper's way of asking: a prompt that ends before a letter, and the likeliest of the letters that can follow.

The wording is this project's own; see docs/protocols.md for what the paper's code does differently.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from harness.contract import ProtocolDetails, Reason
from harness.contract.tasks import LetterPart, LetterTask
from harness.errors import BadRequest, Unsupported
from harness.evaluation.definitions.attacked import attacked_group
from harness.evaluation.definitions.encoding import EncodedPair, TextEncoder
from harness.evaluation.definitions.prepared_choices import Group, PreparedChoices
from harness.evaluation.definitions.questions import Questions
from harness.evaluation.definitions.rows import group_rows, share_limit

if TYPE_CHECKING:
    from jinja2 import Template

    from harness.evaluation.definitions import ModelFacts

Row = dict[str, Any]


class LetterQuestions:
    """The prompts that a template makes of `rows`.

    Raises:
        BadRequest: a row lacks a field of the template (raised when its prompt is asked for).
    """

    def __init__(self, part: LetterPart, rows: Sequence[Row], *, source: str) -> None:
        self._part = part
        self._rows = rows
        self._source = source

    def pairs(self, place: int) -> list[tuple[str, str]]:
        """The prompt, which ends without a space, and a space with each letter."""
        prompt = self._prompt(place).rstrip()
        return [(prompt, f" {letter}") for letter in self._part.letters]

    def gold(self, place: int) -> int | None:
        label = self._rows[place].get(self._part.label)
        if not isinstance(label, int):
            raise BadRequest(
                f"row {place} of {self._source} has no whole number in the field {self._part.label!r}, but {label!r}",
                hint="fetch the data set again; its field names must be those of the Hugging Face hub",
            )
        return label if 0 <= label < len(self._part.letters) else None

    def lengths(self, place: int) -> list[int] | None:
        return None

    def correct(self, place: int, log_likelihoods: Sequence[float]) -> dict[str, float]:
        return {"acc": float(log_likelihoods.index(max(log_likelihoods)) == self.gold(place))}

    def _prompt(self, place: int) -> str:
        from jinja2 import TemplateError

        try:
            return _template(self._part.template).render(**self._rows[place])
        except (TemplateError, TypeError, KeyError, IndexError) as unfit:
            raise BadRequest(
                f"row {place} of {self._source} does not fit the prompt's template: {unfit!r}",
                hint="fetch the data set again; its field names must be those of the Hugging Face hub",
            ) from unfit


def prepare_letters(
    task: LetterTask, rows: Mapping[str, Sequence[Row]], facts: "ModelFacts", *, limit: int | None
) -> PreparedChoices:
    """See `harness.evaluation.definitions.prepare`."""
    grouped = {
        (split, name): content
        for split, part in task.parts.items()
        for name, content in group_rows(rows[split], part.group_by, f"{task.dataset}/{split}").items()
    }
    shares = share_limit([len(content) for content in grouped.values()], limit)
    groups = [
        _group(task, split, name, content[:share])
        for ((split, name), content), share in zip(grouped.items(), shares, strict=True)
        if share
    ]
    details = ProtocolDetails(scoring="next-token", template_sha256=task.template_sha256)
    available = sum(len(rows[split]) for split in task.splits)
    return PreparedChoices(task, groups, facts, details, available=available, encode=encode_letters)


def encode_letters(encoder: TextEncoder, pairs: Sequence[tuple[str, str]]) -> list[EncodedPair]:
    """Each pair with a continuation of one token: tokens before a letter's last go to the context.

    Raises:
        Unsupported: the letters do not differ in exactly that token.
    """
    encoded = [_last_token(pair) for pair in encoder.encode_pairs(pairs)]
    for prompt, alike in groupby(zip(pairs, encoded, strict=True), key=lambda both: both[0][0]):
        letters = {letter: pair for (_, letter), pair in alike}
        contexts = {pair.context.tobytes() for pair in letters.values()}
        answers = {pair.continuation.tobytes() for pair in letters.values()}
        if len(contexts) > 1 or len(answers) < len(letters):
            raise Unsupported(
                Reason.TASK,
                f"the tokenizer does not write the letters after {prompt[-20:]!r} as one token each after equal tokens",
                hint="take the task of the same name without -letter, which compares whole answers",
            )
    return encoded


def _group(task: LetterTask, split: str, name: str, rows: Sequence[Row]) -> Group:
    part = task.parts[split]

    def make(content: Sequence[Row]) -> Questions:
        return LetterQuestions(part, content, source=f"{task.dataset}/{split}")

    if task.original_prefix is not None:
        return attacked_group(split, rows, make, task.original_prefix)
    return Group(name if part.group_by else None, rows, make(rows))


def _last_token(pair: EncodedPair) -> EncodedPair:
    import numpy as np

    before, last = pair.continuation[:-1], pair.continuation[-1:]
    return EncodedPair(np.concatenate([pair.context, before]), last) if len(before) else pair


@lru_cache(maxsize=64)
def _template(source: str) -> "Template":
    from jinja2 import Environment, StrictUndefined

    return Environment(undefined=StrictUndefined).from_string(source)  # noqa: S701  plain text, no markup
