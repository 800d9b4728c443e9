"""Stored results as observations: which figure of which stage enters which track, and why a figure is missing."""

from collections.abc import Iterator

from harness.contract import (
    REFERENCE_ENGINE,
    BenchmarkResult,
    CompressResult,
    EvaluateResult,
    Operation,
    ProfileResult,
    TaskDescription,
)
from orchestrator.evidence.observation import Gap, Observation, Variant
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import ScoringEntry
from orchestrator.plan.resolving import engine_name
from orchestrator.stages import Subject
from orchestrator.store import RunRecord, StageRecord, StageState
from orchestrator.tracks import TRUTHFULNESS_TASK, Expectation, Track, expect, expected_tasks, parts_of_task

MACS_CONVENTION = "macs/paper-bitops"
UNCOUNTED = "other"
"""The part of figures that enter no score."""


def expectations(record: RunRecord) -> tuple[Expectation, ...]:
    """All that complete scores of this run's models would hold."""
    models = [model.name for model in record.manifest.models]
    benchmark = record.manifest.benchmark
    backends = _backends(record)
    sizes = benchmark.batch_sizes if benchmark else ()
    scoring = record.manifest.scoring
    return tuple(expect(track, models, backends=backends, batch_sizes=sizes, scoring=scoring) for track in Track)


def observe(
    record: RunRecord, results: dict[str, StageRecord], catalog: ImageCatalog
) -> tuple[tuple[Observation, ...], tuple[Gap, ...]]:
    """Every measured value of a run, and a gap with its reason for every stage that has no result."""
    observations: list[Observation] = []
    gaps: list[Gap] = []
    for name, state in record.stages.items():
        if state.subject is None:
            continue
        if name in results:
            observed = _observations(state.subject, results[name], catalog, record.manifest.scoring)
            observations.extend(one.model_copy(update={"caveat": state.caveat}) for one in observed)
        else:
            gaps.extend(_gaps(name, state, state.subject, record.manifest.scoring))
    gaps.extend(_not_asked_for(record, catalog))
    return tuple(observations), tuple(gaps)


def _observations(
    subject: Subject, stage: StageRecord, catalog: ImageCatalog, scoring: ScoringEntry
) -> Iterator[Observation]:
    result = stage.final.result
    base = Observation(
        track=Track.PERFORMANCE,
        part="",
        name="",
        model=subject.model,
        family=subject.family,
        method=subject.method,
        setting=subject.setting,
        value=0.0,
        higher_is_better=True,
        source=stage.provenance.key,
    )
    if isinstance(result, EvaluateResult):
        yield from _accuracy(base, result, catalog.tasks[result.task][1], scoring)
    elif isinstance(result, CompressResult):
        yield from _training_cost(base, result)
    elif isinstance(result, ProfileResult):
        yield from _inference_cost(base, result)
    elif isinstance(result, BenchmarkResult):
        yield from _speed(base, result)


def _accuracy(
    base: Observation, result: EvaluateResult, task: TaskDescription, scoring: ScoringEntry
) -> Iterator[Observation]:
    """A figure for each place that the task enters, or for none of a score: then it is shown and not counted.

    Of several engines, only that one's figures count which `scoring` names.
    """
    metric = scoring.truthfulness if task.dataset == TRUTHFULNESS_TASK else result.metric
    counts = result.engine == engine_name(scoring.engine)
    facts = {
        "name": result.task if counts else f"{result.task} by {result.engine}",
        "value": result.metrics[metric],
        "metric": metric,
        "unit": "fraction" if task.higher_is_better else "perplexity",
        "higher_is_better": task.higher_is_better,
        "protocol": _protocol(result),
    }
    places = parts_of_task(result.task, scoring) if counts else ()
    for track, part in places or ((Track(task.track), UNCOUNTED),):
        yield base.model_copy(update={**facts, "track": track, "part": part})


def _protocol(result: EvaluateResult) -> str:
    """The protocol's name, and what else keeps figures apart: a segment's length where the model sets it, the items."""
    name, excluded = result.protocol, sum(result.excluded.values())
    length = result.details.sequence_length if result.details is not None else None
    if length is not None and not name.endswith(f"-{length}"):
        name = f"{name} of {length} tokens"
    asked = result.items + excluded
    if asked != result.items_available:
        name = f"{name} first {asked}"
    return f"{name}, {excluded} excluded" if excluded else name


def _training_cost(base: Observation, result: CompressResult) -> Iterator[Observation]:
    """The training that follows pruning counts as time, too, as in the paper's table."""
    cost = result.cost
    common = base.model_copy(update={"track": Track.TRAINING_CONSUMPTION, "higher_is_better": False})
    yield common.model_copy(
        update={
            "part": "time",
            "name": "compress_seconds",
            "value": cost.compress_seconds + (cost.recovery_seconds or 0),
            "unit": "seconds",
            "protocol": "cost/compress",
        }
    )
    yield common.model_copy(
        update={
            "part": "memory",
            "name": "peak_memory_bytes",
            "value": float(cost.memory.peak_memory_bytes),
            "unit": "bytes",
            "protocol": cost.memory.method,
        }
    )


def _inference_cost(base: Observation, result: ProfileResult) -> Iterator[Observation]:
    common = base.model_copy(update={"track": Track.INFERENCE_CONSUMPTION, "higher_is_better": False})
    values = (
        ("memory", "peak_memory_bytes", result.memory.peak_memory_bytes, "bytes", result.memory.method),
        ("size", "disk_bytes", result.disk_bytes, "bytes", result.protocol),
        ("macs", "macs", result.macs[MACS_CONVENTION], "macs", f"{MACS_CONVENTION}@{result.macs_tokens}"),
    )
    for part, name, value, unit, protocol in values:
        yield common.model_copy(
            update={"part": part, "name": name, "value": float(value), "unit": unit, "protocol": protocol}
        )


def _speed(base: Observation, result: BenchmarkResult) -> Iterator[Observation]:
    for speed in result.speeds:
        yield base.model_copy(
            update={
                "track": Track.HARDWARE_ACCELERATION,
                "part": result.backend,
                "name": f"batch {speed.batch_size}",
                "value": speed.decode_tokens_per_second,
                "unit": "tokens/s",
                "protocol": speed.protocol or result.protocol,
                "noise_floor": speed.noise_floor,
            }
        )


def _gaps(name: str, state: StageState, subject: Subject, scoring: ScoringEntry) -> Iterator[Gap]:
    gap = Gap(
        variant=Variant(method=subject.method, setting=subject.setting),
        model=subject.model,
        reason=f"{name}: {state.failure.message if state.failure else state.status.value}",
    )
    if state.operation is Operation.EVALUATE:
        task = str(state.parameters["task"])
        if state.parameters.get("engine", REFERENCE_ENGINE) != engine_name(scoring.engine):
            return
        for track, part in parts_of_task(task, scoring):
            yield gap.model_copy(update={"track": track, "part": part, "name": task})
    elif state.operation is Operation.PROFILE:
        yield gap.model_copy(update={"track": Track.INFERENCE_CONSUMPTION})
    elif state.operation is Operation.BENCHMARK:
        yield gap.model_copy(update={"track": Track.HARDWARE_ACCELERATION, "part": str(state.parameters["backend"])})
    elif state.operation is Operation.COMPRESS:
        yield gap.model_copy(update={"track": Track.TRAINING_CONSUMPTION})


def _not_asked_for(record: RunRecord, catalog: ImageCatalog) -> Iterator[Gap]:
    """Parts of the complete scores that the manifest leaves out, or that no image can measure yet."""
    evaluate, scoring = record.manifest.evaluate, record.manifest.scoring
    asked = evaluate.tasks if evaluate else ()
    engines = tuple(map(engine_name, evaluate.engine)) if evaluate else ()
    for variant in _variants(record):
        for task in expected_tasks(scoring):
            if task not in asked:
                known = task in catalog.tasks
                reason = "not in this run's manifest" if known else "no image offers this task yet"
                yield Gap(variant=variant, name=task, reason=reason)
            elif engine_name(scoring.engine) not in engines:
                reason = f"evaluated by {', '.join(engines)} alone, and scores count what {scoring.engine} finds"
                yield Gap(variant=variant, name=task, reason=reason)
        if record.manifest.profile is None:
            yield Gap(variant=variant, track=Track.INFERENCE_CONSUMPTION, reason="not in this run's manifest")
    for refused in record.not_planned:
        variant = Variant(method=refused.subject.method, setting=refused.subject.setting)
        reason = f"{refused.message} (source: {refused.source})" if refused.source else refused.message
        gap = Gap(variant=variant, model=refused.subject.model, reason=reason)
        if refused.operation is Operation.BENCHMARK:
            yield gap.model_copy(update={"track": Track.HARDWARE_ACCELERATION, "part": refused.backend})
        elif refused.backend == engine_name(scoring.engine):
            for task in asked:
                yield gap.model_copy(update={"name": task})


def _variants(record: RunRecord) -> tuple[Variant, ...]:
    subjects = [state.subject for state in record.stages.values() if state.subject is not None]
    return tuple(dict.fromkeys(Variant(method=one.method, setting=one.setting) for one in subjects))


def _backends(record: RunRecord) -> tuple[str, ...]:
    planned = [
        str(state.parameters["backend"]) for state in record.stages.values() if state.operation is Operation.BENCHMARK
    ]
    refused = [one.backend for one in record.not_planned if one.operation is Operation.BENCHMARK]
    return tuple(dict.fromkeys([*planned, *refused]))
