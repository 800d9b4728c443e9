"""Which figure of one stored result is a value of which track."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from harness.contract import (
    BenchmarkResult,
    CompressResult,
    EvaluateResult,
    FidelityResult,
    ProfileResult,
    StatesResult,
    TaskDescription,
)
from harness.contract.items import UNLABELLED
from orchestrator.evidence.gaps import counted_task
from orchestrator.evidence.value import Measurement, Value, Variant
from orchestrator.figures.outcomes import Outcomes
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import ScoringEntry
from orchestrator.stages import Subject, Turn
from orchestrator.store import RunRecord, StageRecord, StageState
from orchestrator.tracks import TRUTHFULNESS_TASK, Place, Track, parts_of_task

MACS_CONVENTION = "macs/paper-bitops"
UNCOUNTED = "other"
"""The part of figures that enter no score."""


class NoFigure(Exception):
    """A stored result lacks what a track is made of; the message says what, in a clause that a report can print."""


@dataclass(frozen=True)
class MeasuredStage:
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
        slice_of: str | None = None,
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
            slice_of=slice_of,
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
    if isinstance(result, EvaluateResult | StatesResult | FidelityResult | ProfileResult | BenchmarkResult):
        return result.notes
    return stage.artifact.notes if stage.artifact is not None else ()


def values_of(made: MeasuredStage, record: RunRecord, catalog: ImageCatalog) -> Iterator[Value]:
    result = made.stage.final.result
    if isinstance(result, EvaluateResult) and made.outcomes is not None:
        yield from _accuracy(made, result, made.outcomes, record, catalog)
    elif isinstance(result, CompressResult):
        yield from _training_cost(made, result)
    elif isinstance(result, ProfileResult):
        yield from _inference_cost(made, result)
    elif isinstance(result, BenchmarkResult):
        yield from _speed(made, result)


def counted_metric(
    result: EvaluateResult, outcomes: Outcomes, catalog: ImageCatalog, scoring: ScoringEntry
) -> tuple[TaskDescription, str, float]:
    """The task, and which metric stands for it with which value, computed from the outcomes of its items.

    Raises:
        NoFigure: no image offers the task any more, or the result is without the metric.
    """
    if result.task not in catalog.tasks:
        raise NoFigure("no image offers this task any more")
    task = catalog.tasks[result.task][1]
    metric = scoring.truthfulness_metric if task.dataset == TRUTHFULNESS_TASK else result.metric
    if metric not in outcomes.metrics:
        raise NoFigure(f"the outcomes of its items give no {metric}")
    return task, metric, outcomes.metrics[metric]


def _accuracy(
    made: MeasuredStage, result: EvaluateResult, outcomes: Outcomes, record: RunRecord, catalog: ImageCatalog
) -> Iterator[Value]:
    """A value for each place that the task enters, or for none of a score: then it is shown and not counted.

    Of several engines, only that one's figures count which `scoring` names.
    """
    scoring = record.manifest.scoring
    task, metric, value = counted_metric(result, outcomes, catalog, scoring)
    counts = result.engine == catalog.full_name(scoring.engine)
    name = counted_task(result.task, made.subject, record, catalog)
    places = parts_of_task(name, scoring) if counts else ()
    protocol, slice_of = _protocols(result, made.state.parameters.get("limit"))
    for track, part in places or ((Track(task.track), UNCOUNTED),):
        yield made.value(
            track,
            part,
            (name if places else result.task) if counts else f"{result.task} by {result.engine}",
            value,
            "fraction" if task.higher_is_better else "perplexity",
            protocol,
            slice_of=slice_of,
            higher_is_better=task.higher_is_better,
            metric=metric,
            items=outcomes.scored,
            excluded={reason: count for reason, count in result.excluded.items() if count and reason != UNLABELLED},
        )


def _protocols(result: EvaluateResult, limit: int | None) -> tuple[str, str | None]:
    """The protocol's name, and what else keeps figures apart: a segment's length where the model sets it, the items.
    Of a slice that lacks some of the items it was drawn from, that of all of them, too."""
    name = result.protocol
    length = result.details.sequence_length if result.details is not None else None
    if length is not None and str(length) not in name.split("-"):
        name = f"{name} of {length} tokens"
    asked = result.items + sum(result.excluded.values())
    due = asked if result.drawn_from is None else min(limit or result.items_available, result.items_available)
    whole = name if due == result.items_available else f"{name} first {due}"
    if result.drawn_from in (None, asked):
        return whole, None
    return f"{whole}, {asked} of {result.drawn_from} drawn", whole


def _training_cost(made: MeasuredStage, result: CompressResult) -> Iterator[Value]:
    """The training that follows pruning counts as time, too, as in the paper's table."""
    track, cost = Track.TRAINING_CONSUMPTION, result.cost
    seconds = cost.compress_seconds + (cost.recovery_seconds or 0)
    peak_memory_bytes = float(cost.memory.peak_memory_bytes)
    yield made.value(track, "time", "compress_seconds", seconds, "seconds", "cost/compress")
    yield made.value(track, "memory", "peak_memory_bytes", peak_memory_bytes, "bytes", cost.memory.method)


def _inference_cost(made: MeasuredStage, result: ProfileResult) -> Iterator[Value]:
    track = Track.INFERENCE_CONSUMPTION
    yield made.value(track, "size", "disk_bytes", float(result.disk_bytes), "bytes", result.protocol, counted=True)
    if MACS_CONVENTION not in result.macs:
        raise NoFigure(result.macs_absent or f"the result has no {MACS_CONVENTION}")
    macs = float(result.macs[MACS_CONVENTION])
    yield made.value(track, "macs", "macs", macs, "macs", f"{MACS_CONVENTION}@{result.macs_tokens}", counted=True)


def _speed(made: MeasuredStage, result: BenchmarkResult) -> Iterator[Value]:
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
