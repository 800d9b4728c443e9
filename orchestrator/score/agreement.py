"""How far a backend's accuracies agree with the reference's, item by item, where a run has both of a checkpoint."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from harness.contract import REFERENCE_ENGINE, Dtype, EvaluateResult, Frozen, Operation
from harness.contract.items import OF_PICK, AttackedItem, ChoiceItem, Item, PageItem, SegmentItem
from orchestrator.evidence.value import Variant
from orchestrator.store import RunRecord, StageRecord, StageState, Store

LogLikelihoods = tuple[float | None, ...]


class ItemDifference(Frozen):
    """An item of which the two engines pick different choices. Log-likelihoods are in nats, one for each choice.

    An engine that gave no finite number picks nothing: None.
    """

    index: NonNegativeInt
    document: str
    group: str | None = None
    gold: NonNegativeInt
    reference_picked: NonNegativeInt | None
    engine_picked: NonNegativeInt | None
    reference_log_likelihoods: LogLikelihoods
    engine_log_likelihoods: LogLikelihoods


class TaskAgreement(Frozen):
    """One task on one checkpoint, by the reference and by `engine`. `reason` says why the two are not compared.

    A pick is that of the task's own metric; a text, which has no choices, has none. Differences are absolute, over
    all `log_likelihoods` that both engines have, in nats: of a whole choice, or of a whole segment or page of a text.
    `largest_difference_index` is the item that the largest belongs to.
    """

    model: str
    variant: Variant
    task: str
    engine: str
    metric: str = ""
    reference_value: float | None = None
    engine_value: float | None = None
    reference_dtype: Dtype | None = None
    engine_dtype: Dtype | None = None
    items: NonNegativeInt = 0
    picks: NonNegativeInt = 0
    identical_picks: NonNegativeInt = 0
    identical_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    log_likelihoods: NonNegativeInt = 0
    mean_difference_nats: NonNegativeFloat | None = None
    largest_difference_nats: NonNegativeFloat | None = None
    largest_difference_index: NonNegativeInt | None = None
    differing: tuple[ItemDifference, ...] = ()
    reason: str | None = None


class RunAgreement(Frozen):
    """Everything of a run that was, or was to be, evaluated by a backend as well as by the reference.

    Fields are only ever added.
    """

    schema_version: Literal[1] = 1
    run: str
    reference: str = REFERENCE_ENGINE
    tasks: tuple[TaskAgreement, ...]


@dataclass(frozen=True)
class _Evaluation:
    """One planned evaluation, and what is stored of it."""

    state: StageState
    stored: StageRecord | None

    @property
    def result(self) -> EvaluateResult | None:
        result = self.stored.final.result if self.stored else None
        return result if isinstance(result, EvaluateResult) else None

    @property
    def absence(self) -> str:
        return self.state.failure.message if self.state.failure else self.state.status.value


@dataclass(frozen=True)
class _Outcome:
    """One item. `name` tells it from others of the same number; `gold` is None where there is nothing to pick."""

    index: int
    name: str
    group: str | None
    gold: int | None
    picked: int | None
    log_likelihoods: LogLikelihoods


def run_agreement(record: RunRecord, results: Mapping[str, StageRecord], store: Store) -> RunAgreement:
    """`results` are the finished stages of the run, by name. A run of one engine alone has nothing to compare."""
    found = tuple(_compared(record, results, store))
    refused = tuple(_refused(record)) if found or _has_reference(record) else ()
    return RunAgreement(run=record.run, tasks=(*found, *refused))


def _compared(record: RunRecord, results: Mapping[str, StageRecord], store: Store) -> Iterator[TaskAgreement]:
    evaluations = {
        (state.subject, _parameter(state, "task"), _parameter(state, "engine")): _Evaluation(state, results.get(name))
        for name, state in record.stages.items()
        if state.operation is Operation.EVALUATE and state.subject is not None
    }
    for (subject, task, engine), deployed in evaluations.items():
        reference = evaluations.get((subject, task, REFERENCE_ENGINE))
        if engine != REFERENCE_ENGINE and reference is not None:
            about = partial(TaskAgreement, model=subject.model, variant=Variant.of(subject), task=task, engine=engine)
            yield _agreement(about, reference, deployed, engine, store)


def _agreement(
    about: partial[TaskAgreement], reference: _Evaluation, deployed: _Evaluation, engine: str, store: Store
) -> TaskAgreement:
    if reference.stored is None or reference.result is None:
        return about(reason=f"no result of {REFERENCE_ENGINE}: {reference.absence}")
    if deployed.stored is None or deployed.result is None:
        return about(reason=f"no result of {engine}: {deployed.absence}")
    metric = reference.result.metric
    both = (reference.stored, deployed.stored)
    values = [outcomes.metrics.get(metric) for one in both if (outcomes := store.outcomes.of(one)) is not None]
    measured = partial(
        about,
        metric=metric,
        reference_value=values[0],
        engine_value=values[1],
        reference_dtype=reference.result.dtype,
        engine_dtype=deployed.result.dtype,
    )
    ours, theirs = ([_outcome(item, metric) for item in store.outcomes.items(one)] for one in both)
    if [(one.index, one.name, one.gold) for one in ours] != [(one.index, one.name, one.gold) for one in theirs]:
        return measured(reason="not of the same items")
    pairs = list(zip(ours, theirs, strict=True))
    picks = sum(one.gold is not None for one, _ in pairs)
    differing = tuple(_difference(one, other) for one, other in pairs if one.picked != other.picked)
    nats = [
        (abs(a - b), one.index)
        for one, other in pairs
        for a, b in zip(one.log_likelihoods, other.log_likelihoods, strict=True)
        if a is not None and b is not None
    ]
    largest, index = max(nats, default=(None, None))
    return measured(
        items=len(pairs),
        picks=picks,
        identical_picks=picks - len(differing),
        identical_percent=100 * (picks - len(differing)) / picks if picks else None,
        log_likelihoods=len(nats),
        mean_difference_nats=math.fsum(one for one, _ in nats) / len(nats) if nats else None,
        largest_difference_nats=largest,
        largest_difference_index=index,
        differing=differing,
    )


def _outcome(item: Item, metric: str) -> _Outcome:
    if isinstance(item, SegmentItem):
        loss, document = item.negative_log_likelihood, item.document if isinstance(item, PageItem) else ""
        name = f"{document} of {item.tokens} tokens"
        return _Outcome(item.index, name, None, None, None, (None if loss is None else -loss,))
    if not isinstance(item, ChoiceItem):
        return _Outcome(item.index, item.document, item.group, None, None, ())
    found = item.log_likelihoods + (item.original_log_likelihoods if isinstance(item, AttackedItem) else ())
    picked = getattr(item, OF_PICK.get(metric, "picked"))
    name = f"{item.document} with {len(found)} choices"
    return _Outcome(item.index, name, item.group, item.gold, picked, found)


def _difference(reference: _Outcome, engine: _Outcome) -> ItemDifference:
    return ItemDifference(
        index=reference.index,
        document=reference.name.partition(" ")[0],
        group=reference.group,
        gold=reference.gold or 0,
        reference_picked=reference.picked,
        engine_picked=engine.picked,
        reference_log_likelihoods=reference.log_likelihoods,
        engine_log_likelihoods=engine.log_likelihoods,
    )


def _refused(record: RunRecord) -> Iterator[TaskAgreement]:
    tasks = record.manifest.evaluate.tasks if record.manifest.evaluate else ()
    for one in record.not_planned:
        if one.operation is Operation.EVALUATE and one.backend != REFERENCE_ENGINE:
            for task in tasks if one.task is None else (one.task,):
                yield TaskAgreement(
                    model=one.subject.model,
                    variant=Variant.of(one.subject),
                    task=task,
                    engine=one.backend,
                    reason=one.message,
                )


def _has_reference(record: RunRecord) -> bool:
    return any(
        state.operation is Operation.EVALUATE and _parameter(state, "engine") == REFERENCE_ENGINE
        for state in record.stages.values()
    )


def _parameter(state: StageState, name: str) -> str:
    return str(state.parameters.get(name, REFERENCE_ENGINE))
