"""How far each compressed model is from the dense one: divergences over text, and flips of choices.

Both are computed from the outcomes of items, whatever a worker wrote beside them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from harness.contract import REFERENCE_ENGINE, EvaluateResult, FidelityResult, Frozen, Operation
from harness.contract.divergence import QUANTILES, divergence_metrics
from harness.contract.items import FidelityItem
from orchestrator.evidence.clusters import Floats, mean_interval, quantile_interval
from orchestrator.evidence.counts import share_interval, sign_test
from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.value import Interval, Variant
from orchestrator.figures.outcomes import Outcomes
from orchestrator.store import RunRecord, StageRecord, Store

_SINGLE = {"kl_max": "the largest of some tokens has no interval"}


class FidelityFigure(Frozen):
    """One metric of `docs/protocols.md`. An interval that is None has its reason beside it."""

    value: float
    interval: Interval | None = None
    interval_reason: str | None = None


class TextFidelity(Frozen):
    """A model, read by `engine`, beside the dense one read by the reference, over the tokens of a text.

    Dense stands here by an engine that is not the reference. `reason` says why there is no figure. `excluded` segments
    have no finite numbers. `source` is the key of the stage.
    """

    model: str
    variant: Variant
    task: str
    engine: str = REFERENCE_ENGINE
    protocol: str = ""
    segments: NonNegativeInt = 0
    segments_available: NonNegativeInt = 0
    excluded: NonNegativeInt = 0
    tokens: NonNegativeInt = 0
    figures: dict[str, FidelityFigure] = {}
    reason: str | None = None
    source: str | None = None


class Flips(Frozen):
    """What a compressed model picks otherwise than the dense one, in one task by one engine.

    `items` are those in which both picked something; `share` is that of all three kinds of flips among them, with its
    interval, `p_value` that right to wrong and wrong to right are equally likely (McNemar's exact test). `reason` says
    why they are not counted.
    """

    model: str
    variant: Variant
    task: str
    engine: str
    metric: str = ""
    items: NonNegativeInt = 0
    right_to_wrong: NonNegativeInt = 0
    wrong_to_right: NonNegativeInt = 0
    other_pick: NonNegativeInt = 0
    share: FidelityFigure | None = None
    p_value: Annotated[float, Field(ge=0, le=1)] | None = None
    reason: str | None = None


class RunFidelity(Frozen):
    """Of a run's compressed models. Fields are only ever added."""

    schema_version: PositiveInt = 1
    texts: tuple[TextFidelity, ...] = ()
    flips: tuple[Flips, ...] = ()


def run_fidelity(
    record: RunRecord, results: Mapping[str, StageRecord], outcomes: Mapping[str, Outcomes], store: Store
) -> RunFidelity:
    """`results` are the finished stages of the run by name, `outcomes` those of its evaluations by key.

    Raises:
        Unreadable: a stored result is damaged, or not what its parts give.
    """
    return RunFidelity(
        texts=tuple(_texts(record, results, store)), flips=tuple(_flips(picking_evaluations(record, results, outcomes)))
    )


def _texts(record: RunRecord, results: Mapping[str, StageRecord], store: Store) -> Iterator[TextFidelity]:
    for name, state in record.stages.items():
        if state.operation is not Operation.FIDELITY or state.subject is None:
            continue
        about = TextFidelity(
            model=state.subject.model,
            variant=Variant.of(state.subject),
            task=str(state.parameters["task"]),
            engine=str(state.parameters.get("engine", REFERENCE_ENGINE)),
        )
        stage = results.get(name)
        result = stage.final.result if stage is not None else None
        if stage is None or not isinstance(result, FidelityResult):
            why = state.failure.message if state.failure else state.status.value
            yield about.model_copy(update={"reason": f"{name}: {why}"})
            continue
        items = store.outcomes.divergences(stage)
        scored = [item for item in items if item.is_scored]
        yield about.model_copy(
            update={
                "protocol": result.protocol,
                "segments": len(scored),
                "segments_available": result.items_available,
                "excluded": len(items) - len(scored),
                "tokens": sum(item.tokens for item in scored),
                "figures": text_figures(items),
                "source": stage.provenance.key,
            }
        )


def text_figures(items: tuple[FidelityItem, ...]) -> dict[str, FidelityFigure]:
    """Every metric of the items, with its interval over segments."""
    scored = [item for item in items if item.divergences is not None]
    divergences = [np.array(item.divergences, np.float64) for item in scored]
    tokens = np.array([item.tokens for item in scored], np.float64)

    def of(*names: str) -> Floats:
        sums = [np.array([getattr(item, name) for item in scored], np.float64) for name in names]
        return sums[0] if len(sums) == 1 else sums[0] - sums[1]

    intervals: dict[str, Callable[[], Interval]] = {
        "kl_mean": lambda: mean_interval(np.array([one.sum() for one in divergences]), tokens, positive=True),
        "same_top": lambda: _within(mean_interval(of("same_top"), tokens), 0.0, 1.0),
        "right_probability_change": lambda: mean_interval(of("right_probability", "dense_right_probability"), tokens),
        "right_probability_change_rms": lambda: _root(mean_interval(of("squared_change"), tokens, positive=True)),
        "nats_per_token": lambda: mean_interval(of("nats"), tokens),
        "dense_nats_per_token": lambda: mean_interval(of("dense_nats"), tokens),
        **{name: _quantile(divergences, share) for name, share in QUANTILES.items()},
    }
    figures = {}
    for name, value in divergence_metrics(scored).items():
        try:
            figures[name] = FidelityFigure(
                value=value,
                interval=intervals[name]() if name in intervals else None,
                interval_reason=_SINGLE.get(name),
            )
        except NoInterval as reason:
            figures[name] = FidelityFigure(value=value, interval_reason=str(reason))
    return figures


def _quantile(divergences: list[Floats], share: float) -> Callable[[], Interval]:
    return lambda: quantile_interval(divergences, share)


def _within(interval: Interval, least: float, most: float) -> Interval:
    return Interval(low=max(least, interval.low), high=min(most, interval.high))


def _root(interval: Interval) -> Interval:
    return Interval(low=float(np.sqrt(interval.low)), high=float(np.sqrt(interval.high)))


@dataclass(frozen=True)
class PickingEvaluation:
    """An evaluation of a task in which something is picked; `metric` is one of a pick."""

    stage: StageRecord
    model: str
    variant: Variant
    task: str
    engine: str
    metric: str
    outcomes: Outcomes

    def is_over_the_items_of(self, other: "PickingEvaluation") -> bool:
        return (self.outcomes.identity, self.outcomes.answers) == (other.outcomes.identity, other.outcomes.answers)


def picking_evaluations(
    record: RunRecord, results: Mapping[str, StageRecord], outcomes: Mapping[str, Outcomes]
) -> Iterator[PickingEvaluation]:
    """`results` and `outcomes` are those of `run_fidelity`."""
    for name, stage in results.items():
        result, subject = stage.final.result, record.stages[name].subject
        found = outcomes.get(stage.provenance.key)
        if not isinstance(result, EvaluateResult) or subject is None or found is None or not found.picked:
            continue
        metric = result.metric if result.metric in found.picked else next(iter(found.picked))
        yield PickingEvaluation(stage, subject.model, Variant.of(subject), result.task, result.engine, metric, found)


def _flips(evaluations: Iterator[PickingEvaluation]) -> Iterator[Flips]:
    found = {(one.model, one.task, one.engine, one.variant): one for one in evaluations}
    for (model, task, engine, variant), one in found.items():
        dense = found.get((model, task, engine, Variant()))
        if variant.is_dense or dense is None:
            continue
        about = Flips(model=model, variant=variant, task=task, engine=engine, metric=one.metric)
        if not one.is_over_the_items_of(dense):
            yield about.model_copy(update={"reason": "not of the same items as dense"})
            continue
        yield _counted(about, dense.outcomes, one.outcomes)


def _counted(about: Flips, dense: Outcomes, other: Outcomes) -> Flips:
    before, after = (one.picked[about.metric] for one in (dense, other))
    both = (before >= 0) & (after >= 0)
    was_right, is_right = ((one.values[about.metric] == 1) & both for one in (dense, other))
    right_to_wrong = int(np.count_nonzero(was_right & ~is_right))
    wrong_to_right = int(np.count_nonzero(is_right & ~was_right))
    other_pick = int(np.count_nonzero(both & ~was_right & ~is_right & (before != after)))
    items, flips = int(np.count_nonzero(both)), right_to_wrong + wrong_to_right + other_pick
    if not items:
        return about.model_copy(update={"reason": "no item in which both picked something"})
    return about.model_copy(
        update={
            "items": items,
            "right_to_wrong": right_to_wrong,
            "wrong_to_right": wrong_to_right,
            "other_pick": other_pick,
            "share": FidelityFigure(value=flips / items, interval=share_interval(flips, items)),
            "p_value": sign_test(right_to_wrong, wrong_to_right),
        }
    )
