"""What a race took, in items and seconds, beside what all that the manifest asks for would take."""

import statistics
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from harness.contract import BenchmarkParameters, EvaluateParameters, EvaluateResult, Sha256
from harness.contract.items import NOT_FINITE
from orchestrator.decide.answer import Spent
from orchestrator.run.costs import cost_of, measured_here, usual_costs, work_of
from orchestrator.run.run import Setup
from orchestrator.stages import Stage
from orchestrator.store import RunRecord, StageRecord, Store


@dataclass
class Measured:
    """Every result that a race came by, by stage and key: of an evaluation, each of its slices."""

    results: dict[str, dict[Sha256, StageRecord]] = field(default_factory=dict)

    def add(self, record: RunRecord, store: Store) -> None:
        for name, state in record.stages.items():
            if state.key is not None and state.has_result and (found := store.read(state.key)) is not None:
                self.results.setdefault(name, {})[state.key] = found

    @property
    def seconds(self) -> float:
        return sum(one.provenance.wall_seconds for found in self.results.values() for one in found.values())


def spent(setup: Setup, measured: Measured, raced: Mapping[str, Stage]) -> Spent:
    """`raced` are the evaluations of the manifest that a loss may be made of, by their ids."""
    items = {name: _items(tuple(measured.results[name].values())) for name in raced if name in measured.results}
    available = {_task(raced[name]): of for name, (_, of) in items.items()}
    seconds, unknown = _seconds_of_all(setup, measured)
    return Spent(
        evaluations=sum(scored for scored, _ in items.values()),
        evaluations_of_all=sum(available.get(_task(stage), 0) for stage in raced.values()),
        seconds=measured.seconds,
        seconds_of_all=seconds,
        not_estimated=unknown,
    )


def _task(stage: Stage) -> tuple[str, str]:
    assert isinstance(stage.parameters, EvaluateParameters) and stage.subject is not None  # noqa: S101  an evaluation
    return stage.subject.model, stage.parameters.task


def _items(results: tuple[StageRecord, ...]) -> tuple[int, int]:
    """How many items the largest slice has, and how many there are."""
    found = [one.final.result for one in results if isinstance(one.final.result, EvaluateResult)]
    return max(map(_scored, found)), max(one.drawn_from or _scored(one) for one in found)


def _scored(result: EvaluateResult) -> int:
    return result.items + result.excluded.get(NOT_FINITE, 0)


def _seconds_of_all(setup: Setup, measured: Measured) -> tuple[float, tuple[str, ...]]:
    """Of all stages of the plan, and those of which nothing tells.

    What was measured takes what it took, an evaluation by its slices as long as all its items would. What was not takes
    as long as the same of the other variants does, on average, or what the same work took before.
    """
    own = {
        stage.id: _seconds(tuple(measured.results[stage.id].values()))
        for stage in setup.plan.stages
        if stage.id in measured.results
    }
    alike: dict[Hashable, list[float]] = {}
    for stage in setup.plan.stages:
        if stage.id in own:
            alike.setdefault(_kind(stage), []).append(own[stage.id])
    left = [stage for stage in setup.plan.stages if stage.id not in own and _kind(stage) not in alike]
    works = {stage.id: work_of(stage, setup) for stage in left}
    here, usual = measured_here(setup.store, setup.device.model, set(works.values())), usual_costs()
    total, unknown = 0.0, []
    for stage in setup.plan.stages:
        if stage.id in own:
            total += own[stage.id]
        elif _kind(stage) in alike:
            total += statistics.fmean(alike[_kind(stage)])
        elif (cost := cost_of(stage, works[stage.id], here, usual, setup)[0]) is not None and cost.seconds is not None:
            total += cost.seconds
        else:
            unknown.append(stage.id)
    return total, tuple(unknown)


def _kind(stage: Stage) -> Hashable:
    """Equal for stages that do the same to variants of one model."""
    parameters, model = stage.parameters, stage.subject.model if stage.subject is not None else stage.id
    if isinstance(parameters, EvaluateParameters):
        return model, stage.operation, parameters.task, parameters.engine
    if isinstance(parameters, BenchmarkParameters):
        return model, stage.operation, parameters.backend
    return model, stage.operation, getattr(parameters, "task", None) or getattr(parameters, "method", None)


def _seconds(results: tuple[StageRecord, ...]) -> float:
    """Of a stage; of an evaluation, of all items at once: what it takes beside scoring, and the rate of its slices."""
    costs = [
        (one.provenance.wall_seconds, one.final.result.cost)
        for one in results
        if isinstance(one.final.result, EvaluateResult) and one.final.result.cost is not None
    ]
    scored = sum(cost.scored_items for _, cost in costs if cost is not None)
    if len(costs) < len(results) or not scored:
        return max(one.provenance.wall_seconds for one in results)
    scoring = sum(cost.score_seconds for _, cost in costs if cost is not None)
    beside = statistics.fmean(wall - cost.score_seconds for wall, cost in costs if cost is not None)
    return beside + scoring / scored * _items(results)[1]
