"""Which figure of which stored result is a value of which track."""

import statistics
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from harness.contract import (
    BenchmarkResult,
    CompressResult,
    EvaluateResult,
    Operation,
    ProfileResult,
    TaskDescription,
)
from harness.contract.items import UNLABELLED
from orchestrator.evidence.draws import Draws, Printed
from orchestrator.evidence.gaps import counted_task, run_gaps, stage_gaps
from orchestrator.evidence.interval import if_any, value_interval
from orchestrator.evidence.pairing import paired_with_dense
from orchestrator.evidence.rounds import APART, COUNTED, joined
from orchestrator.evidence.served_memory import (
    MEMORY_PART,
    PROFILE,
    MemoryFigure,
    ServedMemory,
    memory_protocol,
    served_memory,
    unlike_the_format,
)
from orchestrator.evidence.value import DENSE, Gap, Measurement, Value, Values, Variant
from orchestrator.figures.outcomes import Outcomes
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import ScoringEntry
from orchestrator.manifest.excluding import Exclusions, resolve_exclusions
from orchestrator.stages import Subject, Turn
from orchestrator.store import RunRecord, StageRecord, StageState
from orchestrator.store.asked import Asked
from orchestrator.tracks import (
    TRUTHFULNESS_TASK,
    Expectation,
    Place,
    Track,
    expect,
    parts_of_task,
)

MACS_CONVENTION = "macs/paper-bitops"
UNCOUNTED = "other"
"""The part of figures that enter no score."""


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
            with suppress(_NoFigure):
                found = outcomes[stage.provenance.key]
                _, metric, value = _counted(result, found, catalog, record.manifest.scoring)
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
            made = _Measured(state, state.subject, stage, outcomes.get(stage.provenance.key))
            values.extend(_values(made, record, catalog))
        except _NoFigure as absent:
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


def _memory(record: RunRecord, results: Mapping[str, StageRecord]) -> ServedMemory:
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
        value = _Measured(state, subject, results[name], None).value(
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
    return served_memory(figures, absent)


@dataclass(frozen=True)
class _Measured:
    """A finished stage about a model: what all of its values have in common."""

    state: StageState
    subject: Subject
    stage: StageRecord
    outcomes: Outcomes | None

    def value(
        self,
        track: Track,
        part: str,
        name: str,
        value: float,
        unit: str,
        protocol: str,
        *,
        higher_is_better: bool = False,
        metric: str = "",
        items: int | None = None,
        excluded: Mapping[str, int] | None = None,
        counted: bool = False,
        noise_floor: float | None = None,
    ) -> Value:
        return Value(
            place=Place(track=track, part=part, name=name, model=self.subject.model),
            variant=Variant.of(self.subject),
            value=value,
            unit=unit,
            higher_is_better=higher_is_better,
            protocol=protocol,
            metric=metric,
            items=items,
            excluded=dict(excluded or {}),
            measurements=() if items is not None else (self._measurement(value),),
            counted=counted,
            noise_floor=noise_floor,
            caveat=self.state.caveat,
            notes=notes_of(self.stage),
            source=self.stage.provenance.key,
        )

    def _measurement(self, value: float) -> Measurement:
        provenance = self.stage.provenance
        return Measurement(
            turn=self.state.turn or Turn(),
            value=value,
            source=provenance.key,
            begun=provenance.started,
            ended=provenance.started + timedelta(seconds=provenance.wall_seconds),
            load=provenance.load,
            repeated=provenance.repeated,
        )


def notes_of(stage: StageRecord) -> tuple[str, ...]:
    """What the worker remarked, of its result or of what it made."""
    result = stage.final.result
    if isinstance(result, EvaluateResult | ProfileResult | BenchmarkResult):
        return result.notes
    return stage.artifact.notes if stage.artifact is not None else ()


def _values(made: _Measured, record: RunRecord, catalog: ImageCatalog) -> Iterator[Value]:
    result = made.stage.final.result
    if isinstance(result, EvaluateResult) and made.outcomes is not None:
        yield from _accuracy(made, result, made.outcomes, record, catalog)
    elif isinstance(result, CompressResult):
        yield from _training_cost(made, result)
    elif isinstance(result, ProfileResult):
        yield from _inference_cost(made, result)
    elif isinstance(result, BenchmarkResult):
        yield from _speed(made, result)


class _NoFigure(Exception):
    """A stored result lacks what a track is made of; the message says what, in a clause that a report can print."""


def _counted(
    result: EvaluateResult, outcomes: Outcomes, catalog: ImageCatalog, scoring: ScoringEntry
) -> tuple[TaskDescription, str, float]:
    """The task, and which metric stands for it with which value, computed from the outcomes of its items.

    Raises:
        _NoFigure: no image offers the task any more, or the result is without the metric.
    """
    if result.task not in catalog.tasks:
        raise _NoFigure("no image offers this task any more")
    task = catalog.tasks[result.task][1]
    metric = scoring.truthfulness_metric if task.dataset == TRUTHFULNESS_TASK else result.metric
    if metric not in outcomes.metrics:
        raise _NoFigure(f"the outcomes of its items give no {metric}")
    return task, metric, outcomes.metrics[metric]


def _accuracy(
    made: _Measured, result: EvaluateResult, outcomes: Outcomes, record: RunRecord, catalog: ImageCatalog
) -> Iterator[Value]:
    """A value for each place that the task enters, or for none of a score: then it is shown and not counted.

    Of several engines, only that one's figures count which `scoring` names.
    """
    scoring = record.manifest.scoring
    task, metric, value = _counted(result, outcomes, catalog, scoring)
    counts = result.engine == catalog.full_name(scoring.engine)
    name = counted_task(result.task, made.subject, record, catalog)
    places = parts_of_task(name, scoring) if counts else ()
    for track, part in places or ((Track(task.track), UNCOUNTED),):
        yield made.value(
            track,
            part,
            (name if places else result.task) if counts else f"{result.task} by {result.engine}",
            value,
            "fraction" if task.higher_is_better else "perplexity",
            _protocol(result),
            higher_is_better=task.higher_is_better,
            metric=metric,
            items=outcomes.scored,
            excluded={reason: count for reason, count in result.excluded.items() if count and reason != UNLABELLED},
        )


def _protocol(result: EvaluateResult) -> str:
    """The protocol's name, and what else keeps figures apart: a segment's length where the model sets it, the items."""
    name = result.protocol
    length = result.details.sequence_length if result.details is not None else None
    if length is not None and str(length) not in name.split("-"):
        name = f"{name} of {length} tokens"
    asked = result.items + sum(result.excluded.values())
    return name if asked == result.items_available else f"{name} first {asked}"


def _training_cost(made: _Measured, result: CompressResult) -> Iterator[Value]:
    """The training that follows pruning counts as time, too, as in the paper's table."""
    track, cost = Track.TRAINING_CONSUMPTION, result.cost
    seconds = cost.compress_seconds + (cost.recovery_seconds or 0)
    peak_memory_bytes = float(cost.memory.peak_memory_bytes)
    yield made.value(track, "time", "compress_seconds", seconds, "seconds", "cost/compress")
    yield made.value(track, "memory", "peak_memory_bytes", peak_memory_bytes, "bytes", cost.memory.method)


def _inference_cost(made: _Measured, result: ProfileResult) -> Iterator[Value]:
    track = Track.INFERENCE_CONSUMPTION
    yield made.value(track, "size", "disk_bytes", float(result.disk_bytes), "bytes", result.protocol, counted=True)
    if MACS_CONVENTION not in result.macs:
        raise _NoFigure(result.macs_absent or f"the result has no {MACS_CONVENTION}")
    macs = float(result.macs[MACS_CONVENTION])
    yield made.value(track, "macs", "macs", macs, "macs", f"{MACS_CONVENTION}@{result.macs_tokens}", counted=True)


def _speed(made: _Measured, result: BenchmarkResult) -> Iterator[Value]:
    for speed in result.speeds:
        yield made.value(
            Track.HARDWARE_ACCELERATION,
            result.backend,
            f"batch {speed.batch_size}",
            statistics.median(speed.samples),
            "tokens/s",
            speed.protocol or result.protocol,
            higher_is_better=True,
            noise_floor=speed.noise_floor,
        )


def _backends(record: RunRecord) -> tuple[str, ...]:
    planned = [
        str(state.parameters["backend"]) for state in record.stages.values() if state.operation is Operation.BENCHMARK
    ]
    refused = [one.backend for one in record.not_planned if one.operation is Operation.BENCHMARK]
    return tuple(dict.fromkeys([*planned, *refused]))
