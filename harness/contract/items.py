"""What an evaluation keeps of each item: one JSON line an item in its items file. docs/evaluation.md has the fields.

An item that contradicts itself is none: what was picked follows from the log-likelihoods, and what is correct from what
was picked.
"""

import math
from collections.abc import Container, Sequence
from typing import Annotated, Self, TypeGuard

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

from harness.contract.base import Frozen, digest_of

NOT_FINITE = "log_likelihood_not_finite"
"""The reason under which an item is excluded when the model gave it NaN or an infinity."""
UNLABELLED = "unlabelled"
"""The reason for a row without a gold answer (GLUE writes -1 for a label that is kept secret): it asks nothing."""
OF_PICK = {"acc": "picked", "acc_norm": "picked_norm", "mc1": "picked"}
"""For each metric that is 1 where the right choice was picked: the field that says which one was."""
ORIGINAL = "acc_original"

_DOCUMENT_CHARACTERS = 16
_ROUNDING = 1e-9
"""Relative: what dividing, or a sum of exponentials, may differ by in another language."""

LogLikelihood = Annotated[FiniteFloat, Field(le=1e-3)]
"""In nats; above 0 by rounding alone, since no probability is above 1."""
LogLikelihoods = tuple[LogLikelihood | None, ...]
NonNegative = Annotated[FiniteFloat, Field(ge=0)]
Divergence = NonNegative
"""In nats."""
Share = Annotated[float, Field(ge=0, le=1)]


def document_digest(row: object) -> str:
    """Names a data set's row without quoting it: the beginning of its sha256."""
    return digest_of(row)[:_DOCUMENT_CHARACTERS]


class JudgedItem(Frozen):
    """An item of a kind of its own: all that is known is its number, its row of the data set, and what it counts.

    `document` is the row's `document_digest`: the text itself is not ours to pass on. `correct` is by
    metric; an item without any is excluded. `group` names the part of the task that the item belongs to, such as a
    subject; None where the task has no parts.
    """

    index: NonNegativeInt
    document: str
    correct: dict[str, Share] = {}
    group: str | None = None

    @property
    def is_scored(self) -> bool:
        return bool(self.correct)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        unfounded = [name for name in self.correct if name in (*OF_PICK, ORIGINAL, "mc2")]
        if unfounded:
            raise ValueError(f"{unfounded[0]} without log-likelihoods to pick by")
        return self


class ChoiceItem(JudgedItem):
    """One question. `picked` has the largest log-likelihood (nats), `picked_norm` the largest one per character.

    `lengths` counts the characters of each choice, where `picked_norm` is told. A log-likelihood that is no finite
    number is None, and the item is then excluded: nothing is picked.
    """

    log_likelihoods: LogLikelihoods = Field(min_length=1)
    gold: NonNegativeInt
    picked: NonNegativeInt | None = None
    picked_norm: NonNegativeInt | None = None
    lengths: tuple[PositiveInt, ...] | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        found = self._all_log_likelihoods
        choices = len(self._choices)
        if self.gold >= choices:
            raise ValueError(f"gold is {self.gold}, of {choices} choices")
        if self.lengths is not None and len(self.lengths) != choices:
            raise ValueError(f"{len(self.lengths)} lengths of {choices} choices")
        if not _all_known(found):
            if self.picked is not None or self.picked_norm is not None or self.correct:
                raise ValueError("it is picked or correct, and a log-likelihood is no finite number")
            return self
        if self.picked is None or not self.correct:
            raise ValueError("nothing is picked or nothing correct, and all log-likelihoods are finite numbers")
        likelihoods = found[:choices]
        _require_largest("picked", self.picked, likelihoods)
        if self.picked_norm is not None:
            if self.lengths is None:
                _require_one_of("picked_norm", self.picked_norm, likelihoods)
            else:
                each = [value / length for value, length in zip(likelihoods, self.lengths, strict=True)]
                _require_largest("picked_norm", self.picked_norm, each)
        self._check_correct(found)
        return self

    @property
    def _choices(self) -> LogLikelihoods:
        """Those that `picked` is one of."""
        return self.log_likelihoods

    @property
    def _all_log_likelihoods(self) -> LogLikelihoods:
        return self.log_likelihoods

    def _check_correct(self, likelihoods: Sequence[float]) -> None:
        for name, value in self.correct.items():
            if name in OF_PICK:
                pick = getattr(self, OF_PICK[name])
                if value != (pick == self.gold):
                    raise ValueError(f"{name} is {value:g}, with {OF_PICK[name]} {pick} and gold {self.gold}")
            elif (share := self._share(name, likelihoods)) is not None and not _same(value, share):
                raise ValueError(f"{name} is {value:g}, and the log-likelihoods give {share:g}")

    def _share(self, name: str, likelihoods: Sequence[float]) -> float | None:
        """What a metric that is none of a pick comes to; None where that cannot be told from the log-likelihoods."""
        if name in (ORIGINAL, "mc2"):
            raise ValueError(f"{name} without log-likelihoods of its own")
        return None


class AttackedItem(ChoiceItem):
    """A question whose text was attacked. `original_log_likelihoods` are those of its choices after the text from
    before the attack; empty where the data set has none."""

    original_log_likelihoods: LogLikelihoods = ()

    @model_validator(mode="after")
    def _has_originals(self) -> Self:
        if self.original_log_likelihoods and len(self.original_log_likelihoods) != len(self.log_likelihoods):
            raise ValueError(
                f"{len(self.original_log_likelihoods)} original log-likelihoods of {len(self.log_likelihoods)} choices"
            )
        if self.is_scored and bool(self.original_log_likelihoods) != (ORIGINAL in self.correct):
            raise ValueError(f"{ORIGINAL} and original log-likelihoods stand together or not at all")
        return self

    @property
    def _all_log_likelihoods(self) -> LogLikelihoods:
        return self.log_likelihoods + self.original_log_likelihoods

    def _share(self, name: str, likelihoods: Sequence[float]) -> float | None:
        originals = likelihoods[len(self.log_likelihoods) :]
        if name == ORIGINAL and self.gold < len(originals):
            largest = max(originals)
            if originals.count(largest) > 1 and originals[self.gold] == largest:
                return self.correct[name]  # a tie: which one was picked is not kept
            return float(originals[self.gold] == largest)
        return super()._share(name, likelihoods)


class TruthItem(ChoiceItem):
    """A question of TruthfulQA. The first `mc1_choices` log-likelihoods are those of MC1, `gold` and `picked` among
    them; the others are those of MC2, of which those numbered `mc2_true` are true."""

    mc1_choices: PositiveInt
    mc2_true: tuple[NonNegativeInt, ...]

    @property
    def _choices(self) -> LogLikelihoods:
        return self.log_likelihoods[: self.mc1_choices]

    def _share(self, name: str, likelihoods: Sequence[float]) -> float | None:
        if name != "mc2":
            return super()._share(name, likelihoods)
        second = likelihoods[self.mc1_choices :]
        if not 0 < len(set(self.mc2_true)) == len(self.mc2_true) < len(second) or max(self.mc2_true) >= len(second):
            raise ValueError(f"mc2_true are not some of {len(second)} choices")
        largest = max(second)
        weights = [math.exp(value - largest) for value in second]
        return sum(weights[number] for number in self.mc2_true) / sum(weights)


class SegmentItem(Frozen):
    """One segment of text: the summed negative log-likelihood, in nats, of its `tokens` predicted tokens."""

    index: NonNegativeInt
    negative_log_likelihood: Annotated[FiniteFloat, Field(ge=-1e-3)] | None
    tokens: PositiveInt

    @property
    def is_scored(self) -> bool:
        return self.negative_log_likelihood is not None


class PageItem(SegmentItem):
    """One page: the summed negative log-likelihood, in nats, of its `tokens` predicted tokens.

    `words` and `bytes` are those of the page before lm-eval's detokenizer. `document` is the beginning of the sha256 of
    the page's text, which itself is not ours to pass on.
    """

    document: str
    words: PositiveInt
    bytes: PositiveInt

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.words > self.bytes + 1:
            raise ValueError(f"{self.words} words in {self.bytes} bytes")
        return self


class FidelityItem(Frozen):
    """One segment or page of text, under the model and under the dense one: sums over its `tokens` predicted tokens.

    `divergences` has of each token, in its order, the Kullback-Leibler divergence of the model's distribution from the
    dense one's, KL(dense || model), in nats; None where the model gave no finite numbers, and then all sums are 0.
    `same_top` counts the tokens for which the token that dense finds likeliest is the model's likeliest, too.
    `right_probability` and `dense_right_probability` sum the probabilities of the tokens that stand in the text,
    `squared_change` the squares of their differences; both negative log-likelihoods are those of these tokens.
    """

    index: NonNegativeInt
    tokens: PositiveInt
    divergences: tuple[Divergence, ...] | None
    same_top: NonNegativeInt = 0
    right_probability: NonNegative = 0.0
    dense_right_probability: NonNegative = 0.0
    squared_change: NonNegative = 0.0
    nats: NonNegative = 0.0
    dense_nats: NonNegative = 0.0

    @property
    def is_scored(self) -> bool:
        return self.divergences is not None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.divergences is not None and len(self.divergences) != self.tokens:
            raise ValueError(f"{len(self.divergences)} divergences of {self.tokens} tokens")
        sums = ("same_top", "right_probability", "dense_right_probability", "squared_change")
        for name in sums:
            if getattr(self, name) > self.tokens * (1 + _ROUNDING):
                raise ValueError(f"{name} is {getattr(self, name):g}, of {self.tokens} tokens")
        return self


Item = JudgedItem | ChoiceItem | AttackedItem | TruthItem | SegmentItem | PageItem


def item_type(fields: Container[str]) -> type[Item]:
    """The kind of an item with these fields."""
    if "negative_log_likelihood" in fields:
        return PageItem if "words" in fields else SegmentItem
    if "log_likelihoods" not in fields and "picked" not in fields:
        return JudgedItem
    if "mc1_choices" in fields:
        return TruthItem
    return AttackedItem if "original_log_likelihoods" in fields else ChoiceItem


def _all_known(likelihoods: LogLikelihoods) -> TypeGuard[tuple[float, ...]]:
    return None not in likelihoods


def _require_one_of(field: str, pick: int, choices: Sequence[float]) -> None:
    if pick >= len(choices):
        raise ValueError(f"{field} is {pick}, of {len(choices)} choices")


def _require_largest(field: str, pick: int, choices: Sequence[float]) -> None:
    _require_one_of(field, pick, choices)
    largest = max(choices)
    if choices[pick] != largest and not _same(choices[pick], largest):
        raise ValueError(f"{field} is {pick}, and the largest is {choices.index(largest)}")


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_ROUNDING)
