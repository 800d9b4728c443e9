"""Which evaluations of a run belong together, and what comparing them gives."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.contract import REFERENCE_ENGINE, EvaluateResult, Operation
from orchestrator.evidence.collecting import variant_of
from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.reading import items_file
from orchestrator.score.agreement.outcomes import compare_outcomes
from orchestrator.score.agreement.records import RunAgreement, TaskAgreement
from orchestrator.store import RunRecord, StageRecord, StageState, Store


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
            facts = _facts(reference, deployed, engine, store)
            yield TaskAgreement(model=subject.model, variant=variant_of(subject), task=task, engine=engine, **facts)


def _facts(reference: _Evaluation, deployed: _Evaluation, engine: str, store: Store) -> dict[str, Any]:
    if reference.stored is None or reference.result is None:
        return {"reason": f"no result of {REFERENCE_ENGINE}: {reference.absence}"}
    if deployed.stored is None or deployed.result is None:
        return {"reason": f"no result of {engine}: {deployed.absence}"}
    metric = reference.result.metric
    facts = {
        "metric": metric,
        "reference_value": reference.result.metrics[metric],
        "engine_value": deployed.result.metrics[metric],
        "reference_dtype": reference.result.dtype,
        "engine_dtype": deployed.result.dtype,
    }
    reference_path = items_file(reference.stored, reference.result, store).path
    engine_path = items_file(deployed.stored, deployed.result, store).path
    try:
        return facts | compare_outcomes(reference_path, engine_path, metric).facts
    except NoInterval as reason:
        return facts | {"reason": str(reason)}


def _refused(record: RunRecord) -> Iterator[TaskAgreement]:
    tasks = record.manifest.evaluate.tasks if record.manifest.evaluate else ()
    for one in record.not_planned:
        if one.operation is Operation.EVALUATE:
            for task in tasks:
                yield TaskAgreement(
                    model=one.subject.model,
                    variant=variant_of(one.subject),
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
