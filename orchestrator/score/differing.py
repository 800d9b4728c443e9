"""Items of which compressed models pick another choice than the dense one: the most telling ones, with their questions.

Texts of data sets are nowhere kept; they are read when a report quotes them. docs/decisions.md says why how many are.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from harness.contract import DatasetDescription, Frozen, Sha256
from harness.contract.items import ChoiceItem, TruthItem
from orchestrator.evidence.fidelity import PickingEvaluation, picking_evaluations
from orchestrator.evidence.value import Variant
from orchestrator.figures.outcomes import Outcomes, in_order
from orchestrator.images.catalog import ImageCatalog
from orchestrator.score.questions import NotQuoted, Question, Questions, read_questions
from orchestrator.store import RunRecord, StageRecord, Store

MOST_OF_TASK = 5
"""Items of one task of one model that a report has."""
MOST_OF_RUN = 120
"""Items that a report has in all, so that that of a large run can still be opened."""
NOT_ASKED_FOR = "the report was asked for without questions"


class OtherPick(Frozen):
    """What `variants` picked where dense picked another."""

    choice: NonNegativeInt
    variants: tuple[Variant, ...]


class DifferingItem(Frozen):
    """`item` is its number in the task, `document` names its row; choices are numbers, from 0.

    `question` is None where it is not quoted; `choices` are then empty, and where the data set's description does not
    tell them.
    """

    item: NonNegativeInt
    group: str | None
    document: str
    right: NonNegativeInt
    dense: NonNegativeInt
    others: tuple[OtherPick, ...]
    question: str | None = None
    choices: tuple[str, ...] = ()


class TaskDifferences(Frozen):
    """One task of one model by one engine: of `items`, `differing` are picked otherwise by at least one of `variants`
    compressed ones. `shown` are the first of these: those first that most variants get right or wrong otherwise, then
    those that most pick otherwise, then by part and number.

    `dataset`, `repository` (on the Hub), `origin` and `licence` are of what is quoted; `not_quoted` says why none is.
    """

    model: str
    task: str
    engine: str
    variants: PositiveInt
    items: NonNegativeInt
    differing: NonNegativeInt
    shown: tuple[DifferingItem, ...] = ()
    dataset: str | None = None
    repository: str | None = None
    origin: str | None = None
    licence: str | None = None
    not_quoted: str | None = None


@dataclass(frozen=True)
class _Compared:
    """`picks` [variants, items] are those of `others`; `telling` has the places of items that differ, in order."""

    dense: PickingEvaluation
    others: tuple[PickingEvaluation, ...]
    picks: NDArray[np.int64]
    telling: NDArray[np.int64]

    @property
    def data(self) -> Sha256 | None:
        found = self.dense.stage.provenance.material.get("inputs", {}).get("dataset")
        return None if found is None else str(found)


@dataclass(frozen=True)
class _Chosen:
    """An item with its place in the arrays of outcomes."""

    place: int
    item: ChoiceItem


def differing_items(
    record: RunRecord,
    results: Mapping[str, StageRecord],
    outcomes: Mapping[str, Outcomes],
    store: Store,
    catalog: ImageCatalog,
    *,
    quoted: bool = True,
) -> tuple[TaskDifferences, ...]:
    """Of every task that dense and compressed variants picked in. Without `quoted` no data set is read.

    `results` are the finished stages of the run by name, `outcomes` those of its evaluations by key.
    """
    compared = tuple(_compared(picking_evaluations(record, results, outcomes)))
    chosen = [_chosen(one, count, store) for one, count in zip(compared, _shares(compared), strict=True)]
    quotes = _read(compared, chosen, store, catalog) if quoted else {}
    told = zip(compared, chosen, strict=True)
    return tuple(
        _differences(one, items, quotes.get(one.data, NotQuoted(NOT_ASKED_FOR)), catalog) for one, items in told
    )


def _compared(evaluations: Iterable[PickingEvaluation]) -> Iterator[_Compared]:
    together: dict[tuple[str, str, str], list[PickingEvaluation]] = defaultdict(list)
    for one in evaluations:
        together[one.model, one.task, one.engine].append(one)
    for same in together.values():
        dense = next((one for one in same if one.variant.is_dense), None)
        others = tuple(
            one for one in same if one is not dense and dense is not None and one.is_over_the_items_of(dense)
        )
        if dense is not None and others:
            yield _against_dense(dense, others)


def _against_dense(dense: PickingEvaluation, others: tuple[PickingEvaluation, ...]) -> _Compared:
    metric = dense.metric
    before, was_right = dense.outcomes.picked[metric], dense.outcomes.values[metric] == 1
    picks = np.stack([one.outcomes.picked[metric] for one in others])
    is_right = np.stack([one.outcomes.values[metric] == 1 for one in others])
    differs = (before >= 0) & (picks >= 0) & (picks != before)
    turned, changed = (differs & (is_right != was_right)).sum(0), differs.sum(0)
    order = np.lexsort((np.arange(len(before)), -changed, -turned))
    return _Compared(dense, others, np.where(differs, picks, -1), order[changed[order] > 0])


def _shares(compared: Sequence[_Compared]) -> list[int]:
    """How many items of each are shown: one of each in turn, until there are `MOST_OF_RUN`."""
    turns = sorted(
        (turn, place) for place, one in enumerate(compared) for turn in range(min(MOST_OF_TASK, len(one.telling)))
    )
    places = [place for _, place in turns[:MOST_OF_RUN]]
    return [places.count(place) for place in range(len(compared))]


def _chosen(one: _Compared, count: int, store: Store) -> list[_Chosen]:
    """The first `count` of them, with their rows' names and right answers."""
    if not count:
        return []
    items = in_order(item for item in store.outcomes.items(one.dense.stage) if isinstance(item, ChoiceItem))
    return [_Chosen(place, items[place]) for place in one.telling[:count].tolist()]


def _read(
    compared: Sequence[_Compared], chosen: Sequence[Sequence[_Chosen]], store: Store, catalog: ImageCatalog
) -> dict[Sha256 | None, Questions | NotQuoted]:
    """By the digest of the data set, each of which is read once."""
    wanted: dict[Sha256 | None, set[str]] = defaultdict(set)
    described: dict[Sha256 | None, DatasetDescription | None] = {}
    for one, items in zip(compared, chosen, strict=True):
        wanted[one.data] |= {chosen.item.document for chosen in items}
        described[one.data] = _described(one, catalog)
    found: dict[Sha256 | None, Questions | NotQuoted] = {}
    for data, documents in wanted.items():
        try:
            found[data] = read_questions(store, data, described[data], frozenset(documents))
        except NotQuoted as reason:
            found[data] = reason
    return found


def _described(one: _Compared, catalog: ImageCatalog) -> DatasetDescription | None:
    task = catalog.tasks.get(one.dense.task)
    return None if task is None else catalog.datasets.get(task[1].dataset)


def _differences(
    one: _Compared, chosen: Sequence[_Chosen], quotes: Questions | NotQuoted, catalog: ImageCatalog
) -> TaskDifferences:
    by_document = quotes.by_document if isinstance(quotes, Questions) else {}
    shown = tuple(_item(one, item, by_document.get(item.item.document)) for item in chosen)
    found = TaskDifferences(
        model=one.dense.model,
        task=one.dense.task,
        engine=one.dense.engine,
        variants=len(one.others),
        items=one.picks.shape[1],
        differing=len(one.telling),
        shown=shown,
    )
    if isinstance(quotes, NotQuoted):
        return found.model_copy(update={"not_quoted": str(quotes)})
    if shown and not any(item.question for item in shown):
        return found.model_copy(update={"not_quoted": "the data set in the store has not these rows"})
    described = _described(one, catalog)
    if described is None:
        return found
    facts = {"dataset": described.name, "repository": described.hub_repository, "licence": described.licence}
    return found.model_copy(update={**facts, "origin": quotes.origin})


def _item(one: _Compared, chosen: _Chosen, question: Question | None) -> DifferingItem:
    item, by_choice = chosen.item, defaultdict(list)
    for other, choice in zip(one.others, one.picks[:, chosen.place].tolist(), strict=True):
        if choice >= 0:
            by_choice[choice].append(other.variant)
    others = sorted(by_choice.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    choices = () if question is None else question.choices
    count = item.mc1_choices if isinstance(item, TruthItem) else len(item.log_likelihoods)
    return DifferingItem(
        item=item.index,
        group=item.group,
        document=item.document,
        right=item.gold,
        dense=int(one.dense.outcomes.picked[one.dense.metric][chosen.place]),
        others=tuple(OtherPick(choice=choice, variants=tuple(variants)) for choice, variants in others),
        question=None if question is None else question.text,
        choices=choices if len(choices) == count else (),
    )
