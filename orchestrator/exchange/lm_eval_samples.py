"""The outcomes of items as lm-evaluation-harness's samples: one JSON line an item.

lm-eval writes numbers of responses as text; so does this. A log-likelihood that is no finite number is null.
"""

import json
from collections.abc import Iterable, Sequence

from pydantic import NonNegativeInt

from harness.contract import Frozen
from harness.contract.items import ChoiceItem, Item, JudgedItem, PageItem, SegmentItem
from orchestrator.exchange.lm_eval import NO_FILTER

Response = tuple[str | None, ...]
"""A log-likelihood in nats, alone: lm-eval has beside it whether the answer was the greedy one, which is not known."""
Outcome = float | tuple[float, int]
"""What an item counts: a share, or a text's log-likelihood in nats with the tokens, words or bytes that bear it."""


class Sample(Frozen):
    """`doc_id` is the item's number in the whole task. `doc` has the digest of its row, and what was picked of it."""

    doc_id: NonNegativeInt
    doc: dict[str, str | int | None]
    target: str
    resps: tuple[tuple[Response, ...], ...]
    filtered_resps: tuple[Response, ...]
    filter: str = NO_FILTER
    metrics: tuple[str, ...]
    outcomes: dict[str, Outcome]


def samples_text(items: Iterable[Item]) -> str:
    """The lines of a samples file: each metric is a field of its own there, as its readers expect."""
    return "".join(f"{json.dumps(_line(_sample(item)), ensure_ascii=False)}\n" for item in items)


def _line(sample: Sample) -> dict[str, object]:
    return {**sample.model_dump(mode="json", exclude={"outcomes"}), **sample.outcomes}


def _sample(item: Item) -> Sample:
    if isinstance(item, SegmentItem):
        return _of_text(item)
    return _of_choices(item) if isinstance(item, ChoiceItem) else _of_judged(item)


def _of_judged(item: JudgedItem) -> Sample:
    return _made(item, {"row_sha256_begins": item.document}, "", (), dict(item.correct))


def _of_choices(item: ChoiceItem) -> Sample:
    doc = {"row_sha256_begins": item.document, "picked": item.picked, "picked_norm": item.picked_norm}
    return _made(item, doc, str(item.gold), item.log_likelihoods, dict(item.correct))


def _of_text(item: SegmentItem) -> Sample:
    loss = item.negative_log_likelihood
    doc: dict[str, str | int | None] = {"tokens": item.tokens}
    units = {"perplexity": item.tokens}
    if isinstance(item, PageItem):
        doc["row_sha256_begins"] = item.document
        units = {"word_perplexity": item.words, "byte_perplexity": item.bytes, "bits_per_byte": item.bytes}
    outcomes: dict[str, Outcome] = {} if loss is None else {name: (-loss, count) for name, count in units.items()}
    return _made(item, doc, "", (None if loss is None else -loss,), outcomes)


def _made(
    item: Item,
    doc: dict[str, str | int | None],
    target: str,
    likelihoods: Sequence[float | None],
    outcomes: dict[str, Outcome],
) -> Sample:
    responses = tuple((None if value is None else str(value),) for value in likelihoods)
    return Sample(
        doc_id=item.index,
        doc=doc,
        target=target,
        resps=tuple((response,) for response in responses),
        filtered_resps=responses,
        metrics=tuple(outcomes),
        outcomes=outcomes,
    )
