"""Holds a result against its parts: the outcomes of its items, the samples of a speed, the parts of a memory."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.contract import (
    BenchmarkResult,
    Bound,
    CompressResult,
    EvaluateResult,
    EvaluationCost,
    FidelityResult,
    Memory,
    ProfileResult,
    Result,
    Slice,
    Speed,
)
from harness.contract.divergence import divergence_metrics
from harness.contract.items import NOT_FINITE, FidelityItem
from harness.contract.measurement import ENERGY_COUNTER_SECONDS, DeviceTelemetry, Extent, MemoryParts
from orchestrator.figures.items_file import Contradiction, OutcomesFile, read_divergences
from orchestrator.figures.outcomes import Outcomes, read_outcomes

_ROUNDING = 1e-6
"""Relative distance within which two figures are the same: more than is lost by writing one in 32 bits."""
_PEAK_HOLDS_OVERHEAD = {"peak-rss": True, "peak-rss-sampled-10ms": True, "cuda-allocator": False}
"""By the method of a memory: whether what is there without the model is in its peak."""


@dataclass(frozen=True)
class Kept:
    """What stands beside a result: the folder of a worker's output, and the request's parameters.

    `data` is the digest of the data set of an evaluation, `sha256` that of its file of outcomes, where they are known.
    """

    folder: Path
    parameters: Mapping[str, Any]
    data: str = ""
    sha256: str | None = None

    def outcomes(self, result: EvaluateResult | FidelityResult) -> OutcomesFile:
        """The file of the outcomes of the items, with what is known of it.

        Raises:
            Contradiction: of a slice, the result does not say of how many items it was drawn.
        """
        path = self.path(result)
        if (drawn := self.slice) is None or isinstance(result, FidelityResult):
            return OutcomesFile(path, self.data, self.sha256)
        if result.drawn_from is None or result.drawn_from > result.items_available:
            said = "nothing" if result.drawn_from is None else f"{result.drawn_from} of {result.items_available} items"
            raise Contradiction(f"a slice is asked for, and drawn_from says {said}")
        return OutcomesFile(path, self.data, self.sha256, drawn.numbers(result.drawn_from))

    def path(self, result: EvaluateResult | FidelityResult) -> Path:
        """Where the outcomes of the items lie: in the folder itself, whatever the result names."""
        return self.folder / Path(result.items_file).name

    @property
    def slice(self) -> Slice | None:
        """What an evaluation was asked for in place of all items."""
        asked = self.parameters.get("slice")
        return None if asked is None else Slice.model_validate(asked)


def check(result: Result, kept: Kept) -> Outcomes | None:
    """The outcomes of the items of an evaluation; None for what is not made of items.

    Raises:
        Contradiction: the result is not what its parts give, or these are missing or damaged.
    """
    if isinstance(result, EvaluateResult):
        outcomes = read_outcomes(kept.outcomes(result))
        _raise_first(_against_outcomes(result, outcomes, kept))
        return outcomes
    if isinstance(result, FidelityResult):
        _raise_first(_against_divergences(result, read_divergences(kept.outcomes(result))))
    elif isinstance(result, BenchmarkResult):
        _raise_first(_against_samples(result, kept.parameters))
    elif isinstance(result, ProfileResult):
        _raise_first(_against_parts(result.memory, result.memory_parts))
    elif isinstance(result, CompressResult):
        _raise_first(_against_bounds(result.cost.bounds))
    return None


def _raise_first(contradictions: Iterator[str]) -> None:
    for one in contradictions:
        raise Contradiction(one)


def _against_outcomes(result: EvaluateResult, outcomes: Outcomes, kept: Kept) -> Iterator[str]:
    if outcomes.scored != result.items:
        yield f"{result.items} items are said to be scored, and there are outcomes of {outcomes.scored}"
    if outcomes.excluded != result.excluded.get(NOT_FINITE, 0):
        yield (
            f"{result.excluded.get(NOT_FINITE, 0)} items are said to be excluded as {NOT_FINITE}, and"
            f" {outcomes.excluded} are"
        )
    yield from _against_asked(result, kept)
    if result.truncated_items > outcomes.scored + outcomes.excluded:
        yield f"{result.truncated_items} of {outcomes.scored + outcomes.excluded} items are said to be truncated"
    length = result.details.sequence_length if result.details is not None else None
    if length is not None and outcomes.tokens - {length - 1}:
        yield f"a segment has {min(outcomes.tokens - {length - 1})} predicted tokens, and is said to be of {length}"
    for name, value in result.metrics.items():
        if name in outcomes.metrics and not _same(value, outcomes.metrics[name]):
            yield f"{name} is said to be {value:.12g}, and the outcomes of its items give {outcomes.metrics[name]:.12g}"
    if result.metric not in result.metrics or result.metric not in outcomes.metrics:
        giver = "it gives no" if result.metric not in result.metrics else "the outcomes of its items give no"
        yield f"{giver} {result.metric}, which is its metric"
    if result.cost is not None:
        yield from _against_seconds(result.cost, outcomes.scored + outcomes.excluded)


def _against_asked(result: EvaluateResult, kept: Kept) -> Iterator[str]:
    asked, available = result.items + sum(result.excluded.values()), result.items_available
    due = min(kept.parameters.get("limit") or available, available)
    if kept.slice is not None:
        due = min(kept.slice.items, result.drawn_from or available, due)
    elif result.drawn_from is not None:
        yield f"it is said to be drawn from {result.drawn_from} items, and all are asked for"
    if asked != due:
        yield f"{asked} items are scored or excluded, and it is asked for {due} of {available}"


def _against_divergences(result: FidelityResult, items: tuple[FidelityItem, ...]) -> Iterator[str]:
    scored = [item for item in items if item.is_scored]
    if (len(scored), len(items)) != (result.items, result.items + sum(result.excluded.values())):
        yield f"{result.items} items are said to be scored, and there are outcomes of {len(scored)} of {len(items)}"
    if sum(item.tokens for item in scored) != result.tokens:
        yield f"{result.tokens} tokens are said to be scored, and there are {sum(item.tokens for item in scored)}"
    found = divergence_metrics(items)
    for name in found.keys() ^ result.metrics.keys():
        yield f"{name} stands in the result or follows from its items, and not both"
    for name, value in result.metrics.items():
        if not _same(value, found[name]):
            yield f"{name} is said to be {value:.12g}, and the outcomes of its items give {found[name]:.12g}"


def _against_seconds(cost: EvaluationCost, items: int) -> Iterator[str]:
    if cost.scored_items + cost.resumed_items != items:
        yield f"the cost counts {cost.scored_items + cost.resumed_items} items, and there are {items}"
    rates = (
        ("items_per_second", cost.items_per_second, cost.scored_items),
        ("tokens_per_second", cost.tokens_per_second, cost.computed_tokens),
        ("model_operations_per_second", cost.model_operations_per_second, cost.model_operations),
    )
    for name, rate, count in rates:
        if rate is not None and count is not None and not _same(rate * cost.score_seconds, count):
            yield f"{name} is said to be {rate:.12g}, with {count} in {cost.score_seconds:.12g} s"
    yield from _against_bounds(cost.bounds)


def _against_bounds(bounds: Iterable[Bound]) -> Iterator[str]:
    """What a worker measured to be possible, which it should have kept to itself."""
    for one in bounds:
        if not one.kept:
            yield f"{one.of}: {one.implied:.6g} {one.unit} are more than the {one.possible:.6g} that were possible"


def _against_samples(result: BenchmarkResult, parameters: Mapping[str, Any]) -> Iterator[str]:
    for speed in result.speeds:
        for one in (*_against_runs(speed, parameters.get("prompt_tokens")), *_against_readings(speed)):
            yield f"batch {speed.batch_size}: {one}"
    yield from _against_parts(result.memory, result.memory_parts)


def _against_runs(speed: Speed, prompt_tokens: int | None) -> Iterator[str]:
    if not speed.samples:
        yield "a speed without samples"
        return
    median = statistics.median(speed.samples)
    if not _same(speed.decode_tokens_per_second, median):
        yield (
            f"decode_tokens_per_second is said to be {speed.decode_tokens_per_second:.12g}, and the median of its"
            f" samples is {median:.12g}"
        )
    if (interval := speed.interval) is not None:
        ends = [any(_same(end, sample) for sample in speed.samples) for end in (interval.low, interval.high)]
        if not all(ends) or not interval.low <= median <= interval.high or interval.coverage > 1:
            yield f"the interval [{interval.low:.12g}, {interval.high:.12g}] is not of samples around their median"
    widest = max(speed.samples) / min(speed.samples) - 1
    if speed.noise_floor is not None and speed.noise_floor > widest * (1 + _ROUNDING) + _ROUNDING:
        yield f"the noise floor is said to be {speed.noise_floor:.6g}, and no samples differ by more than {widest:.6g}"
    seconds = speed.time_to_first_token_seconds
    if seconds is not None and prompt_tokens is not None:
        prefilled = speed.batch_size * prompt_tokens
        if not _same(speed.prefill_tokens_per_second * seconds, prefilled):
            yield (
                f"prefill_tokens_per_second is said to be {speed.prefill_tokens_per_second:.12g}, with {prefilled}"
                f" tokens in {seconds:.12g} s"
            )


def _against_readings(speed: Speed) -> Iterator[str]:
    yield from _against_bounds(speed.bounds)
    if (latency := speed.token_latency) is not None:
        percentiles = [latency.p50_seconds, latency.p90_seconds, latency.p99_seconds]
        if percentiles != sorted(percentiles):
            yield f"the percentiles of the latency, {percentiles}, do not rise"
    if (telemetry := speed.telemetry) is not None:
        yield from _against_extremes(telemetry)


def _against_extremes(telemetry: DeviceTelemetry) -> Iterator[str]:
    for name in type(telemetry).model_fields:
        extent = getattr(telemetry, name)
        if isinstance(extent, Extent) and not extent.minimum <= extent.median <= extent.maximum:
            yield f"{name} has a median of {extent.median:.12g} outside of its extremes"
    yield from _against_bounds(telemetry.bounds)
    joules, limit = telemetry.energy_joules, telemetry.power_limit_watts
    if joules is not None and limit is not None:
        possible = limit * (telemetry.seconds + ENERGY_COUNTER_SECONDS)
        yield from _against_bounds([Bound(of="energy_joules", implied=joules, possible=possible, unit="J")])
    each = telemetry.energy_joules_per_token
    if joules is not None and each is not None and each > joules:
        yield f"a token is said to take {each:.6g} J of {joules:.6g} J"
    for reason, count in telemetry.throttle_reasons.items():
        if count > telemetry.samples:
            yield f"{reason} was set in {count} of {telemetry.samples} samples"


def _against_parts(memory: Memory, parts: MemoryParts | None) -> Iterator[str]:
    """Activations are what is left of the peak, and never less than nothing."""
    if parts is None or memory.method not in _PEAK_HOLDS_OVERHEAD:
        return
    held = [parts.weight_bytes, parts.kv_cache_bytes, parts.activation_bytes]
    if _PEAK_HOLDS_OVERHEAD[memory.method]:
        held.append(parts.overhead_bytes)
    known = [size for size in held if size is not None]
    if len(known) < len(held):
        return
    total, peak = sum(known), memory.peak_memory_bytes
    if total < peak or (total > peak and parts.activation_bytes):
        yield f"the parts of the memory are {total} bytes, and its peak is {peak}"


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_ROUNDING, abs_tol=1e-12)


def of_other_answers(evaluations: Mapping[str, tuple[str, Outcomes]]) -> Iterator[tuple[str, str]]:
    """Evaluations of a task over the same items of which the data set cannot say both, by name, and why.

    `evaluations` holds, by name, the task and the outcomes. What most of them say is taken for the data set's; where
    there is no most, none is.
    """
    alike: dict[tuple[str, str], dict[str, Outcomes]] = {}
    for name, (task, outcomes) in evaluations.items():
        alike.setdefault((task, outcomes.identity), {})[name] = outcomes
    for same in alike.values():
        for what in ("answers", "lengths"):
            said = {name: getattr(one, what) for name, one in same.items() if getattr(one, what) is not None}
            (most, count), *others = Counter(said.values()).most_common() or [(None, 0)]
            if not others:
                continue
            believed = most if count > others[0][1] else None
            for name, one in said.items():
                if one != believed:
                    other = next(neighbour for neighbour, their in said.items() if their != one)
                    noun = "right answers" if what == "answers" else "lengths of choices"
                    yield name, f"the {noun} of its items are not those of the same items in {other}"
