"""What an evaluation found of its items, as arrays by metric, with all figures that follow from them."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from harness.contract.items import OF_PICK, ChoiceItem, JudgedItem, PageItem, SegmentItem, TruthItem
from orchestrator.figures.items_file import OutcomesFile, read_items
from orchestrator.figures.metrics import Floats, choice_metrics, page_metrics, segment_metrics

NOTHING = -1
"""Picked where a log-likelihood is no finite number."""


@dataclass(frozen=True)
class Outcomes:
    """What one evaluation found of its items, sorted by group, then by number.

    `metrics` are all figures that follow from them. `identity` is equal for the same items in the same groups. `groups`
    holds the number of items of each group, in order. `values` has, for each metric of an item, its outcomes [items],
    NaN where an item was excluded; `weights` the same for pages of text, where each word or byte counts the same. With
    `exponential` a figure is the exponential of the mean. `picked` has, for each metric of a pick, the number of the
    choice that was picked in each item, or `NOTHING`. `excluded` items have no outcome. `tokens` are the numbers of
    tokens that segments have. `answers` and `lengths` are equal for items of which the data set says the same: right
    answers and numbers of choices, or words and bytes; and the lengths of choices, None where they are not told.
    `guessing` is the share that picking by chance gets right, of questions that have one right answer. `numbers` and
    `names` [items] are each item's number, and what is equal for the same item in the same group wherever it stands.
    """

    metrics: Mapping[str, float]
    identity: str
    groups: tuple[int, ...]
    values: Mapping[str, Floats]
    weights: Mapping[str, Floats]
    exponential: bool
    scored: int
    excluded: int
    tokens: frozenset[int] = frozenset()
    picked: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    answers: str = ""
    lengths: str | None = None
    guessing: float | None = None
    numbers: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    names: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))


def read_outcomes(file: OutcomesFile) -> Outcomes:
    """The outcomes that an evaluation kept, held against themselves.

    Raises:
        Contradiction: as `read_items` does.
    """
    items = read_items(file)
    if isinstance(items[0], SegmentItem):
        return _of_texts(cast("Sequence[SegmentItem]", items), file.data)
    return _of_questions(cast("Sequence[JudgedItem]", items))


def _of_questions(items: Sequence[JudgedItem]) -> Outcomes:
    """Of items of one kind."""
    ordered = in_order(items)
    listing = [f"{item.group or ''} {item.index} {item.document}" for item in ordered]
    groups = Counter(item.group or "" for item in ordered)
    correct = [item.correct for item in ordered]
    is_choice = isinstance(ordered[0], ChoiceItem)
    choices = cast("Sequence[ChoiceItem]", ordered if is_choice else ())
    lengths = [str(item.lengths) for item in choices if item.lengths is not None]
    names = [name for kind in dict.fromkeys(map(tuple, correct)) for name in kind]
    values = {name: np.array([one.get(name, math.nan) for one in correct]) for name in dict.fromkeys(names)}
    picks = {name: OF_PICK[name] for name in values if name in OF_PICK}
    scored = len(ordered) - correct.count({})
    return Outcomes(
        metrics=choice_metrics(values, {} if groups.keys() == {""} else groups),
        identity=_digest(listing),
        groups=tuple(groups.values()),
        values=values,
        weights={},
        exponential=False,
        scored=scored,
        excluded=len(ordered) - scored,
        picked={name: np.array([_pick(item, field) for item in ordered], np.int64) for name, field in picks.items()},
        answers=_digest(_answers(choices)),
        lengths=_digest(lengths) if lengths and len(lengths) == len(choices) else None,
        guessing=_guessing(choices, items),
        numbers=np.array([item.index for item in ordered], np.int64),
        names=_names(listing),
    )


def _answers(choices: Sequence[ChoiceItem]) -> list[str]:
    """What a data set says of each question: its right answer, and how many there are."""
    if choices and isinstance(choices[0], TruthItem):
        truths = cast("Sequence[TruthItem]", choices)
        return [f"{item.gold} {len(item.log_likelihoods)} {item.mc1_choices} {item.mc2_true}" for item in truths]
    return [f"{item.gold} {len(item.log_likelihoods)} " for item in choices]


def in_order(items: Iterable[JudgedItem]) -> list[JudgedItem]:
    """In the order of the arrays of `Outcomes`."""
    return sorted(items, key=lambda item: (item.group or "", item.index))


def _guessing(choices: Sequence[ChoiceItem], items: Sequence[JudgedItem]) -> float | None:
    """Of choices that are all of the `items`."""
    if len(choices) < len(items) or isinstance(items[0], TruthItem):
        return None
    return math.fsum([1 / len(item.log_likelihoods) for item in choices]) / len(choices)


def _pick(item: JudgedItem, field: str) -> int:
    pick = getattr(item, field, None)
    return NOTHING if pick is None else int(pick)


def _of_texts(items: Sequence[SegmentItem], data: str) -> Outcomes:
    """Of items of one kind."""
    losses = np.array([item.negative_log_likelihood for item in items], np.float64)
    tokens = np.array([item.tokens for item in items], np.float64)
    pages = cast("Sequence[PageItem]", items if isinstance(items[0], PageItem) else ())
    weights: dict[str, Floats] = {}
    if pages:
        words = np.array([page.words for page in pages], np.float64)
        sizes = np.array([page.bytes for page in pages], np.float64)
        weights = {"word_perplexity": words, "byte_perplexity": sizes}
        metrics, values = page_metrics(losses, words, sizes), {name: losses / each for name, each in weights.items()}
    else:
        metrics, values = segment_metrics(losses / tokens), {"perplexity": losses / tokens}
    scored = int(np.count_nonzero(~np.isnan(losses)))
    texts = [page.document for page in pages] or [data] * len(items)
    listing = [f" {item.index} {text}" for item, text in zip(items, texts, strict=True)]
    return Outcomes(
        metrics=metrics,
        identity=_digest(listing),
        groups=(len(items),),
        values=values,
        weights=weights,
        exponential=True,
        scored=scored,
        excluded=len(items) - scored,
        tokens=frozenset() if pages else frozenset(item.tokens for item in items),
        answers=_digest([f"{page.words} {page.bytes}" for page in pages]),
        numbers=np.array([item.index for item in items], np.int64),
        names=_names(listing),
    )


def _digest(listing: list[str]) -> str:
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def _names(listing: list[str]) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(one.encode(), digest_size=8).digest() for one in listing)
    return np.frombuffer(digests, np.uint64)
