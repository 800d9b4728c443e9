"""Questions with choices as a prepared task: encoding, picking, judging, and the means over items and groups."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.contract import ProtocolDetails
from harness.contract.items import NOT_FINITE, ORIGINAL, UNLABELLED, AttackedItem, ChoiceItem, document_digest
from harness.contract.tasks import Task
from harness.errors import BadCheckpoint
from harness.evaluation.definitions.encoding import EncodedPair, TextEncoder
from harness.evaluation.definitions.questions import Questions
from harness.evaluation.definitions.rows import NO_TOKENS, TOO_LONG, nothing_left
from harness.evaluation.outcomes import finite_or_none, standard_error
from harness.evaluation.prepared import Answer, Summary, TokenRequest

if TYPE_CHECKING:
    from harness.evaluation.definitions import ModelFacts

Row = dict[str, Any]
PairEncoder = Callable[[TextEncoder, Sequence[tuple[str, str]]], list[EncodedPair]]


@dataclass(frozen=True)
class Group:
    """Questions made of `rows`. `originals` holds, for a row that was attacked, the question from before, by place."""

    name: str | None
    rows: Sequence[Row]
    questions: Questions
    originals: Questions | None = None
    attacked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class EncodedItem:
    """One question in tokens; `original_pairs` are those of its text from before an attack."""

    group: Group
    place: int
    gold: int
    pairs: tuple[EncodedPair, ...]
    original_pairs: tuple[EncodedPair, ...]

    @property
    def all_pairs(self) -> tuple[EncodedPair, ...]:
        return self.pairs + self.original_pairs


class PreparedChoices:
    """See `harness.evaluation.definitions.Prepared`. An item's requests are its choices, then the original's."""

    unit = "items"

    def __init__(
        self,
        task: Task,
        groups: Sequence[Group],
        facts: "ModelFacts",
        details: ProtocolDetails,
        *,
        available: int,
        encode: PairEncoder = TextEncoder.encode_pairs,
    ) -> None:
        """Encode all questions of `groups`, in their order.

        Raises:
            MissingData: no row has a label.
            Unsupported: no question can be scored.
        """
        encoder = TextEncoder(facts)
        found: Counter[str] = Counter()
        self._items: list[EncodedItem] = []
        for group in groups:
            for item in _encode_group(group, encoder, encode, found):
                reason = _why_not(item, facts.context_length)
                if reason is None:
                    self._items.append(item)
                else:
                    found[reason] += 1
        self._left_out = {reason: count for reason, count in found.items() if count}
        if not self._items:
            raise nothing_left(task, self._left_out)
        attacked = any(group.attacked for group in groups)
        self.item_type: type[ChoiceItem] = AttackedItem if attacked else ChoiceItem
        self.available = available
        self.details = details.model_copy(update={"beginning_token": encoder.beginning_token})
        self.truncated: Collection[int] = tuple(
            number
            for number, item in enumerate(self._items)
            if any(pair.dropped_tokens(facts.context_length) for pair in item.all_pairs)
        )
        self.notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self._items)

    def requests(self, index: int) -> Sequence[TokenRequest]:
        return [pair.request for pair in self._items[index].all_pairs]

    def judge(self, index: int, answers: Sequence[Answer]) -> ChoiceItem:
        item = self._items[index]
        likelihoods = [answer.log_likelihood for answer in answers[: len(item.pairs)]]
        originals = [answer.log_likelihood for answer in answers[len(item.pairs) :]]
        lengths = item.group.questions.lengths(item.place)
        outcome: dict[str, Any] = {
            "index": index,
            "document": document_digest(item.group.rows[item.place]),
            "log_likelihoods": tuple(map(finite_or_none, likelihoods)),
            "gold": item.gold,
            "lengths": lengths,
            "group": item.group.name,
            **self._more(item),
        }
        if self.item_type is AttackedItem:
            outcome["original_log_likelihoods"] = tuple(map(finite_or_none, originals))
        if all(map(math.isfinite, likelihoods + originals)):
            outcome |= {**self._picks(item, likelihoods, lengths), "correct": _correct(item, likelihoods, originals)}
        return self.item_type(**outcome)

    def summarise(self, items: Sequence[ChoiceItem]) -> Summary:
        scored = [item for item in items if item.picked is not None]
        if not scored:
            raise BadCheckpoint(
                "the model gives no item a finite likelihood: its weights or activations overflow",
                hint="evaluate in float32 (parameter dtype); if that does not help, the checkpoint itself is broken",
            )
        excluded = dict(self._left_out)
        if len(scored) < len(items):
            excluded[NOT_FINITE] = len(items) - len(scored)
        return Summary(metrics=mean_metrics(scored) | _drop(scored), scored=len(scored), excluded=excluded)

    def _more(self, item: EncodedItem) -> dict[str, Any]:
        return {}

    def _picks(
        self, item: EncodedItem, log_likelihoods: Sequence[float], lengths: Sequence[int] | None
    ) -> dict[str, int]:
        picks = {"picked": _first_largest(log_likelihoods)}
        if lengths is not None:
            picks["picked_norm"] = _first_largest(
                [value / length for value, length in zip(log_likelihoods, lengths, strict=True)]
            )
        return picks


def mean_metrics(scored: Sequence[ChoiceItem]) -> dict[str, float]:
    """Mean and standard error over items of each metric; with groups, the mean `<metric>/<group>` of each as well."""
    metrics = {}
    names = dict.fromkeys(name for item in scored for name in item.correct)
    for name in names:
        values = [item.correct[name] for item in scored if name in item.correct]
        metrics[name] = statistics.fmean(values)
        if (error := standard_error(values)) is not None:
            metrics[f"{name}_stderr"] = error
        metrics |= _group_means(name, scored)
    return metrics


def _correct(item: EncodedItem, log_likelihoods: Sequence[float], originals: Sequence[float]) -> dict[str, float]:
    correct = item.group.questions.correct(item.place, log_likelihoods)
    if originals and item.group.originals is not None:
        correct[ORIGINAL] = item.group.originals.correct(item.place, originals)["acc"]
    return correct


def _first_largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _group_means(name: str, scored: Sequence[ChoiceItem]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for item in scored:
        if item.group is not None and name in item.correct:
            values.setdefault(item.group, []).append(item.correct[name])
    if not values:
        return {}
    means = {group: statistics.fmean(found) for group, found in values.items()}
    return {f"{name}_over_groups": statistics.fmean(means.values())} | {
        f"{name}/{group}": mean for group, mean in means.items()
    }


def _drop(scored: Sequence[ChoiceItem]) -> dict[str, float]:
    """Accuracy lost to the attack, over the items whose text from before it is known; none for other tasks."""
    lost = [item.correct[ORIGINAL] - item.correct["acc"] for item in scored if ORIGINAL in item.correct]
    if not lost:
        return {}
    error = standard_error(lost)
    return {"acc_drop": statistics.fmean(lost)} | ({} if error is None else {"acc_drop_stderr": error})


def _encode_group(
    group: Group, encoder: TextEncoder, encode: PairEncoder, found: Counter[str]
) -> Iterable[EncodedItem]:
    golds = [group.questions.gold(place) for place in range(len(group.rows))]
    labelled = [place for place, gold in enumerate(golds) if gold is not None]
    found[UNLABELLED] += len(golds) - len(labelled)
    pairs = _encode_questions(group.questions, labelled, encoder, encode)
    originals: dict[int, tuple[EncodedPair, ...]] = {}
    if group.originals is not None:
        known = [place for place in labelled if place in group.attacked]
        originals = dict(zip(known, _encode_questions(group.originals, known, encoder, encode), strict=True))
    for place, encoded in zip(labelled, pairs, strict=True):
        gold = golds[place]
        if gold is not None:
            yield EncodedItem(group, place, gold, encoded, originals.get(place, ()))


def _encode_questions(
    questions: Questions, places: Sequence[int], encoder: TextEncoder, encode: PairEncoder
) -> list[tuple[EncodedPair, ...]]:
    """The pairs of each question, encoded together; choices with equal contexts share the array of its tokens."""
    texts = [questions.pairs(place) for place in places]
    encoded = iter(encode(encoder, [pair for choices in texts for pair in choices]))
    return [tuple(next(encoded) for _ in choices) for choices in texts]


def _why_not(item: EncodedItem, context_length: int) -> str | None:
    lengths = [len(pair.continuation) for pair in item.all_pairs]
    characters = item.group.questions.lengths(item.place) or ()
    if 0 in lengths or 0 in characters:
        return NO_TOKENS
    return TOO_LONG if max(lengths) > context_length else None
