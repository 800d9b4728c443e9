"""The values of a run, and the gaps where it has none."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

from harness.contract import (
    BenchmarkResult,
    EvaluateResult,
    Operation,
    ProfileResult,
)
from orchestrator.evidence.draws import Draws, Printed
from orchestrator.evidence.gaps import run_gaps, stage_gaps
from orchestrator.evidence.interval import if_any, value_interval
from orchestrator.evidence.pairing import paired_with_dense
from orchestrator.evidence.rounds import APART, COUNTED, joined
from orchestrator.evidence.served_memory import (
    MEMORY_PART,
    PROFILE,
    MemoryFigure,
    ServedMemory,
    memories_by,
    memory_protocol,
    served_memory,
    unlike_the_format,
)
from orchestrator.evidence.stage_values import MeasuredStage, NoFigure, counted_metric, values_of
from orchestrator.evidence.value import DENSE, Gap, Value, Values, Variant
from orchestrator.figures.outcomes import Outcomes
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest.excluding import Exclusions, resolve_exclusions
from orchestrator.store import RunRecord, StageRecord
from orchestrator.store.asked import Asked
from orchestrator.tracks import (
    Expectation,
    Track,
    expect,
)


def expectations(
    record: RunRecord, results: Mapping[str, StageRecord], catalog: ImageCatalog
) -> tuple[Expectation, ...]:
    """All that complete scores of this run's models would hold, and what of its `results` was chosen to count."""
    manifest = record.manifest
    models = [model.name for model in manifest.models]
    families = {model.name: model.family for model in manifest.models if model.family is not None}
    sizes = manifest.benchmark.batch_sizes if manifest.benchmark else ()
    exclusions = _exclusions(manifest, catalog)
    backends, memory = _backends(record), measured_by(record, results)
    return tuple(
        expect(
            track,
            models,
            families=families,
            backends=backends,
            batch_sizes=sizes,
            scoring=manifest.scoring,
            memory=memory,
            exclusions=exclusions,
        )
        for track in Track
    )


def _exclusions(manifest: Asked, catalog: ImageCatalog) -> Exclusions:
    labels: dict[str, list[str]] = {}
    for entry in manifest.compress:
        labels.setdefault(entry.method, []).append(entry.name or entry.method)
    return resolve_exclusions(manifest.exclude, labels, catalog.full_name, manifest.scoring.engine)


def printed_figures(
    record: RunRecord, results: Mapping[str, StageRecord], outcomes: Mapping[str, Outcomes], catalog: ImageCatalog
) -> Iterator[Printed]:
    """The figures of a run that are made of items."""
    for name, stage in results.items():
        result = stage.final.result
        if isinstance(result, EvaluateResult) and record.stages[name].subject is not None:
            with suppress(NoFigure):
                found = outcomes[stage.provenance.key]
                _, metric, value = counted_metric(result, found, catalog, record.manifest.scoring)
                yield Printed(stage.provenance.key, metric, value)


def collect(
    record: RunRecord,
    results: Mapping[str, StageRecord],
    outcomes: Mapping[str, Outcomes],
    catalog: ImageCatalog,
) -> Values:
    """Every measured value of a run, and a gap with its reason for every stage without a result, or without a figure.

    Values that are made of items are computed from `outcomes`, by the keys of stages. None has an interval yet: see
    `with_intervals`.
    """
    values: list[Value] = []
    gaps: list[Gap] = []
    memory = _memory(record, results)
    for name, state in record.stages.items():
        if state.subject is None:
            continue
        if name not in results:
            reason = state.failure.message if state.failure else state.status.value
            gaps.extend(stage_gaps(state, state.subject, f"{name}: {reason}", record, catalog))
            continue
        try:
            stage = results[name]
            made = MeasuredStage(state, state.subject, stage, outcomes.get(stage.provenance.key))
            values.extend(values_of(made, record, catalog))
        except NoFigure as absent:
            gaps.extend(stage_gaps(state, state.subject, f"{name}: {absent}", record, catalog))
    measured = joined([*values, *memory.values])
    return Values(paired_with_dense(measured, outcomes), [*gaps, *memory.gaps, *run_gaps(record, catalog)])


def with_intervals(values: Values, draws: Draws) -> Values:
    """The same values, each with its interval or the reason why it has none, and with what dense shows by chance."""
    return Values((_with_interval(value, values, draws) for value in values), values.gaps)


def _with_interval(value: Value, values: Values, draws: Draws) -> Value:
    interval, reason = if_any(lambda: value_interval(draws.of(value)))
    found: dict[str, object] = {"interval": interval, "interval_reason": reason}
    if value.counted:
        found["interval_reason"] = COUNTED
    floor = None if value.counted else draws.rounds.floor(value)
    if floor is not None:
        found["noise_floor"] = floor.relative
    if draws.rounds.beside_dense(value) is False and values.get(value.place, DENSE) is not None:
        found["notes"] = (*value.notes, APART)
    return value.model_copy(update=found)


def measured_by(record: RunRecord, results: Mapping[str, StageRecord]) -> str | None:
    """What the memory of track 4 is measured by; see `orchestrator.evidence.served_memory`."""
    return _memory(record, results).measured_by


def memories(record: RunRecord, results: Mapping[str, StageRecord]) -> Values:
    """The peak memory of each variant by each that measured it, a backend's name or `the profile` as the part."""
    figures, absent = _memory_figures(record, results)
    return Values(
        joined(memories_by(figures)),
        [Gap(variant=variant, model=model, part=by, reason=reason) for (variant, model, by), reason in absent.items()],
    )


def _memory(record: RunRecord, results: Mapping[str, StageRecord]) -> ServedMemory:
    return served_memory(*_memory_figures(record, results))


def _memory_figures(
    record: RunRecord, results: Mapping[str, StageRecord]
) -> tuple[list[MemoryFigure], dict[tuple[Variant, str, str], str]]:
    """All that were measured, and why others were not, by variant, model and what was to measure."""
    figures, absent = [], {}
    for name, state in record.stages.items():
        subject = state.subject
        if subject is None or state.operation not in (Operation.PROFILE, Operation.BENCHMARK):
            continue
        by = PROFILE if state.operation is Operation.PROFILE else str(state.parameters["backend"])
        result = results[name].final.result if name in results else None
        if not isinstance(result, ProfileResult | BenchmarkResult):
            why = state.failure.message if state.failure else state.status.value
            absent[Variant.of(subject), subject.model, by] = f"{name}: {why}"
            continue
        value = MeasuredStage(state, subject, results[name], None).value(
            Track.INFERENCE_CONSUMPTION,
            MEMORY_PART,
            "peak_memory_bytes",
            float(result.memory.peak_memory_bytes),
            "bytes",
            memory_protocol(result),
        )
        figures.append(MemoryFigure(value, by, unlike_the_format(result, state.caveat)))
    for refused in record.not_planned:
        if refused.operation is Operation.BENCHMARK:
            absent[Variant.of(refused.subject), refused.subject.model, refused.backend] = refused.message
    return figures, absent


def _backends(record: RunRecord) -> tuple[str, ...]:
    planned = [
        str(state.parameters["backend"]) for state in record.stages.values() if state.operation is Operation.BENCHMARK
    ]
    refused = [one.backend for one in record.not_planned if one.operation is Operation.BENCHMARK]
    return tuple(dict.fromkeys([*planned, *refused]))
