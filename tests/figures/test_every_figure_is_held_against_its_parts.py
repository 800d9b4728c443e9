"""Each figure of an honest result, changed by itself beyond what its parts allow, is refused by its name, and up to
there it is not."""

from pathlib import Path
from typing import Any

import pytest

from harness.contract import (
    BenchmarkResult,
    CompressResult,
    EvaluateResult,
    FidelityResult,
    ProfileResult,
    Result,
    digest_file,
)
from harness.contract.divergence import divergence_metrics
from harness.contract.items import NOT_FINITE, FidelityItem
from harness.contract.measurement import BOUND_GRACE
from harness.contract.slices import Slice
from orchestrator.figures.checking import Kept, check
from orchestrator.figures.items_file import Contradiction
from tests.support.measured_runs import choices, pack, segments

DTYPE = {"dtype": "float32", "dtype_reason": "r"}
BOUND = {"of": "a rate", "implied": 100.0, "possible": 100.0, "unit": "GB/s"}
BEYOND = {**BOUND, "implied": 100.0 * (1 + 2 * BOUND_GRACE)}
WITHIN = {**BOUND, "implied": 100.0 * (1 + BOUND_GRACE / 2)}
MEMORY = {
    "memory": {"peak_memory_bytes": 1000, "method": "peak-rss"},
    "memory_parts": {"weight_bytes": 400, "kv_cache_bytes": 100, "activation_bytes": 200, "overhead_bytes": 300},
}
ON_GPU = {"peak_memory_bytes": 700, "method": "cuda-allocator"}
TELEMETRY = {
    "driver": "1",
    "device_uuid": "GPU-1",
    "samples": 10,
    "seconds": 2.0,
    "sm_clock_mhz": {"minimum": 1000, "median": 1200, "maximum": 1500},
    "temperature_celsius": {"minimum": 40, "median": 40, "maximum": 40},
    "throttle_reasons": {"power": 10},
    "energy_joules": 600.0,
    "energy_joules_per_token": 600.0,
    "power_limit_watts": 300.0,
    "bounds": [BOUND],
}
SPEED = {
    "batch_size": 2,
    "decode_tokens_per_second": 20.0,
    "samples": [19.0, 20.0, 22.0],
    "prefill_tokens_per_second": 64.0,
    "interval": {"low": 19.0, "high": 22.0, "coverage": 1.0},
    "noise_floor": 22 / 19 - 1,
    "time_to_first_token_seconds": 0.5,
    "token_latency": {"p50_seconds": 0.1, "p90_seconds": 0.1, "p99_seconds": 0.1, "steps": 9},
    "bounds": [BOUND],
    "telemetry": TELEMETRY,
}
ASKED = {"prompt_tokens": 16}
BENCHMARK = {"backend": "b", "protocol": "p", "speeds": [SPEED], "load_seconds": 1, **MEMORY, **DTYPE}
PROFILE = {
    "disk_bytes": 1,
    "weight_bytes": 1,
    "parameter_count": 1,
    "macs_tokens": 1,
    "kv_cache_bytes": 1,
    "protocol": "p",
    **MEMORY,
    **DTYPE,
}
COST = {
    "prepare_seconds": 1,
    "load_seconds": 1,
    "score_seconds": 4.0,
    "scored_items": 3,
    "resumed_items": 2,
    "asked_tokens": 90,
    "computed_tokens": 80,
    "padding_tokens": 1,
    "items_per_second": 0.75,
    "tokens_per_second": 20.0,
    "model_operations": 1000,
    "model_operations_per_second": 250.0,
    "parameter_count": 1,
    "bounds": [BOUND],
}
EVALUATION = {
    "task": "t",
    "protocol": "p",
    "metric": "acc",
    "metrics": {"acc": 0.75},
    "items": 4,
    "items_available": 9,
    "excluded": {NOT_FINITE: 1},
    "truncated_items": 5,
    "items_file": "items.jsonl.zst",
    "dataset_origin": "made by a test",
    "wall_seconds": 9,
    "cost": COST,
    **DTYPE,
}
FIDELITY_ITEMS = (
    FidelityItem(index=0, tokens=2, divergences=(0.5, 0.25), same_top=1, right_probability=0.5, nats=2.0),
    FidelityItem(index=1, tokens=2, divergences=None),
    FidelityItem(index=2, tokens=1, divergences=(0.0,), same_top=1, right_probability=0.5, nats=1.0),
)
FIDELITY = {
    "task": "t",
    "protocol": "p",
    "states": "0" * 64,
    "metrics": divergence_metrics(FIDELITY_ITEMS),
    "items": 2,
    "items_available": 3,
    "tokens": 3,
    "excluded": {NOT_FINITE: 1},
    "items_file": "items.jsonl.zst",
    "wall_seconds": 1,
    "load_seconds": 1,
    "score_seconds": 1,
    **DTYPE,
}
COMPRESSION = {
    "artifact": {
        "format": "dense",
        "dtype": "float32",
        "architecture": "A",
        "parameter_count": 1,
        "source": "dir:x",
        "files": {},
    },
    "cost": {
        "load_seconds": 1,
        "compress_seconds": 1,
        "save_seconds": 1,
        "bounds": [BOUND],
        "memory": MEMORY["memory"],
    },
}
HONEST: dict[type, dict[str, Any]] = {
    BenchmarkResult: BENCHMARK,
    ProfileResult: PROFILE,
    EvaluateResult: EVALUATION,
    FidelityResult: FIDELITY,
    CompressResult: COMPRESSION,
}


def changed(document: Any, path: str, value: Any) -> Any:
    """A copy with another value at a dotted path."""
    name, _, rest = path.partition(".")
    if isinstance(document, list):
        return [changed(one, rest, value) if index == int(name) else one for index, one in enumerate(document)]
    return {**document, name: changed(document[name], rest, value) if rest else value}


def checked(folder: Path, kind: type, changes: dict[str, Any], asked: dict[str, Any] | None = None) -> None:
    """Hold a result with these changes against the honest one's items, where it is made of items."""
    document = HONEST[kind]
    for path, value in changes.items():
        document = changed(document, path, value)
    lines = [one.model_dump() for one in FIDELITY_ITEMS] if kind is FidelityResult else choices([1, 1, None, 1, 0])
    pack(folder / "items.jsonl.zst", lines)
    given = {BenchmarkResult: ASKED, EvaluateResult: {"limit": 5}}.get(kind, {}) if asked is None else asked
    result: Result = kind.model_validate(document)
    check(result, Kept(folder, given, sha256=digest_file(folder / "items.jsonl.zst")))


TELLING, TIMED = "speeds.0.telemetry", "speeds.0"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((kind, {}) for kind in HONEST),
        (BenchmarkResult, {f"{TIMED}.bounds": [WITHIN], f"{TELLING}.bounds": [WITHIN]}),
        (BenchmarkResult, {f"{TELLING}.energy_joules": 300 * 2.1 * (1 + BOUND_GRACE / 2)}),
        (BenchmarkResult, {f"{TELLING}.energy_joules": None}),
        (BenchmarkResult, {f"{TELLING}.power_limit_watts": None, f"{TELLING}.energy_joules": 6000.0}),
        (BenchmarkResult, {f"{TELLING}.energy_joules_per_token": None}),
        (BenchmarkResult, {f"{TIMED}.time_to_first_token_seconds": None, f"{TIMED}.prefill_tokens_per_second": 1.0}),
        (BenchmarkResult, {f"{TIMED}.noise_floor": None, f"{TIMED}.interval": None, f"{TIMED}.token_latency": None}),
        (
            BenchmarkResult,
            {f"{TIMED}.samples": [20.0, 20.0, 22.0], f"{TIMED}.interval.low": 20.0, f"{TIMED}.noise_floor": 0.1},
        ),
        (
            BenchmarkResult,
            {f"{TIMED}.samples": [19.0, 20.0, 20.0], f"{TIMED}.interval.high": 20.0, f"{TIMED}.noise_floor": 0.05},
        ),
        (BenchmarkResult, {f"{TIMED}.telemetry": None, "memory_parts": None}),
        (BenchmarkResult, {"memory": ON_GPU}),
        (BenchmarkResult, {"memory": ON_GPU, "memory_parts.overhead_bytes": None}),
        (ProfileResult, {"memory.method": "another", "memory_parts.weight_bytes": 1}),
        (ProfileResult, {"memory_parts.weight_bytes": None}),
        (ProfileResult, {"memory_parts.weight_bytes": 700, "memory_parts.activation_bytes": 0}),
        (EvaluateResult, {"cost": None}),
        (EvaluateResult, {"cost.items_per_second": None, "cost.model_operations": None}),
        (EvaluateResult, {"cost.bounds": [WITHIN]}),
    ],
)
def test_what_its_parts_allow_stands(kind: type, changes: dict[str, Any], tmp_path: Path) -> None:
    checked(tmp_path, kind, changes)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        (BenchmarkResult, {f"{TIMED}.decode_tokens_per_second": 20.1}, "^batch 2: decode_tokens_per_second is said to"),
        (BenchmarkResult, {f"{TIMED}.samples": []}, "^batch 2: a speed without samples"),
        (BenchmarkResult, {f"{TIMED}.interval.low": 19.5}, r"^batch 2: the interval \[19.5, 22\]"),
        (BenchmarkResult, {f"{TIMED}.interval.high": 21.0}, r"^batch 2: the interval \[19, 21\]"),
        (BenchmarkResult, {f"{TIMED}.interval.low": 22.0}, r"^batch 2: the interval \[22, 22\]"),
        (BenchmarkResult, {f"{TIMED}.interval.high": 19.0}, r"^batch 2: the interval \[19, 19\]"),
        (BenchmarkResult, {f"{TIMED}.interval.coverage": 1.001}, r"^batch 2: the interval \[19, 22\]"),
        (
            BenchmarkResult,
            {f"{TIMED}.noise_floor": 0.159},
            "^batch 2: the noise floor is said to be 0.159, .* 0.157895",
        ),
        (
            BenchmarkResult,
            {f"{TIMED}.time_to_first_token_seconds": 0.501},
            "^batch 2: prefill_tokens_per_second is said",
        ),
        (BenchmarkResult, {f"{TIMED}.token_latency.p50_seconds": 0.2}, "^batch 2: the percentiles of the latency"),
        (BenchmarkResult, {f"{TIMED}.token_latency.p90_seconds": 0.2}, "^batch 2: the percentiles of the latency"),
        (BenchmarkResult, {f"{TIMED}.token_latency.p99_seconds": 0.01}, "^batch 2: the percentiles of the latency"),
        (
            BenchmarkResult,
            {f"{TIMED}.bounds": [BOUND, BEYOND]},
            "^batch 2: a rate: 110 GB/s are more than the 100 that",
        ),
        (
            BenchmarkResult,
            {f"{TELLING}.bounds": [BEYOND]},
            "^batch 2: a rate: 110 GB/s are more than the 100 that",
        ),
        (BenchmarkResult, {f"{TELLING}.sm_clock_mhz.minimum": 1201}, "^batch 2: sm_clock_mhz has a median of 1200 out"),
        (BenchmarkResult, {f"{TELLING}.temperature_celsius.maximum": 39}, "^batch 2: temperature_celsius has a median"),
        (
            BenchmarkResult,
            {f"{TELLING}.energy_joules": 300 * 2.1 * (1 + 2 * BOUND_GRACE)},
            "^batch 2: energy_joules: 693 J are more than the 630 that were possible",
        ),
        (
            BenchmarkResult,
            {f"{TELLING}.energy_joules_per_token": 601},
            "^batch 2: a token is said to take 601 J of 600 J",
        ),
        (
            BenchmarkResult,
            {f"{TELLING}.throttle_reasons": {"power": 11}},
            "^batch 2: power was set in 11 of 10 samples",
        ),
        *(
            (kind, {f"memory_parts.{part}_bytes": 1}, "^the parts of the memory are")
            for kind in (BenchmarkResult, ProfileResult)
            for part in ("weight", "kv_cache", "activation", "overhead")
        ),
        (
            ProfileResult,
            {"memory.peak_memory_bytes": 1001},
            "^the parts of the memory are 1000 bytes, and its peak is 1001",
        ),
        (
            ProfileResult,
            {"memory.peak_memory_bytes": 999},
            "^the parts of the memory are 1000 bytes, and its peak is 999",
        ),
        (ProfileResult, {"memory.method": "peak-rss-sampled-10ms", "memory_parts.overhead_bytes": 1}, "^the parts of"),
        (BenchmarkResult, {"memory": {**ON_GPU, "peak_memory_bytes": 1000}}, "^the parts of the memory are 700 bytes"),
        (
            CompressResult,
            {"cost.bounds": [BOUND, BEYOND]},
            "^a rate: 110 GB/s are more than the 100 that were possible",
        ),
        (EvaluateResult, {"items": 5}, "^5 items are said to be scored, and there are outcomes of 4"),
        (EvaluateResult, {"excluded": {}}, f"^0 items are said to be excluded as {NOT_FINITE}, and 1 are"),
        (EvaluateResult, {"excluded": {NOT_FINITE: 1, "long": 1}}, "^6 items are scored or excluded, and it .* 5 of 9"),
        (EvaluateResult, {"items_available": 4}, "^5 items are scored or excluded, and it is asked for 4 of 4"),
        (EvaluateResult, {"truncated_items": 6}, "^6 of 5 items are said to be truncated"),
        (EvaluateResult, {"metrics.acc": 0.7501}, "^acc is said to be 0.7501, and the outcomes of its items give 0.75"),
        (EvaluateResult, {"metric": "f1"}, "^it gives no f1, which is its metric"),
        (EvaluateResult, {"metric": "f1", "metrics": {"f1": 1}}, "^the outcomes of its items give no f1, which is its"),
        (EvaluateResult, {"drawn_from": 9}, "^it is said to be drawn from 9 items, and all are asked for"),
        (EvaluateResult, {"cost.scored_items": 4}, "^the cost counts 6 items, and there are 5"),
        (EvaluateResult, {"cost.resumed_items": 1}, "^the cost counts 4 items, and there are 5"),
        (EvaluateResult, {"cost.items_per_second": 0.76}, "^items_per_second is said to be 0.76, with 3 in 4 s"),
        (EvaluateResult, {"cost.tokens_per_second": 20.1}, "^tokens_per_second is said to be 20.1, with 80 in 4 s"),
        (
            EvaluateResult,
            {"cost.model_operations": 999},
            "^model_operations_per_second is said to be 250, with 999 in 4 s",
        ),
        (EvaluateResult, {"cost.bounds": [BEYOND]}, "^a rate: 110 GB/s are more than"),
        (FidelityResult, {"items": 3}, "^3 items are said to be scored, and there are outcomes of 2 of 3"),
        (FidelityResult, {"excluded": {}}, "^2 items are said to be scored, and there are outcomes of 2 of 3"),
        (FidelityResult, {"tokens": 5}, "^5 tokens are said to be scored, and there are 3"),
        *((FidelityResult, {f"metrics.{name}": 9.0}, f"^{name} is said to be 9") for name in FIDELITY["metrics"]),
        (FidelityResult, {"metrics": {"another": 1.0}}, "stands in the result or follows from its items, and not both"),
        (
            FidelityResult,
            {"metrics": {**FIDELITY["metrics"], "another": 1.0}},
            "^another stands in the result or follows from its items, and not both",
        ),
    ],
)
def test_what_they_do_not_allow_is_refused(kind: type, changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(Contradiction, match=reason):
        checked(tmp_path, kind, changes)


def test_a_segment_has_the_length_that_is_said(tmp_path: Path) -> None:
    pack(tmp_path / "items.jsonl.zst", segments([1.0] * 5, tokens=15))
    said = {"metric": "nats_per_token", "metrics": {"nats_per_token": 1.0}, "items": 5, "excluded": {}}
    for length in (16, 17):
        details = {"scoring": "segments", "sequence_length": length}
        result = EvaluateResult.model_validate({**EVALUATION, **said, "details": details})
        if length == 16:
            check(result, Kept(tmp_path, {"limit": 5}))
        else:
            with pytest.raises(Contradiction, match=r"^a segment has 15 predicted tokens, and is said to be of 17"):
                check(result, Kept(tmp_path, {"limit": 5}))


@pytest.mark.parametrize(
    ("asked", "changes", "reason"),
    [
        ({"slice": {"items": 5}}, {}, None),
        ({"slice": {"items": 5}, "limit": 7}, {"drawn_from": 7}, None),
        ({"slice": {"items": 5, "seed": 1}}, {}, "lacks item|which is not in the slice"),
        ({"slice": {"items": 5}}, {"drawn_from": None}, "drawn_from says nothing"),
        ({"slice": {"items": 5}}, {"drawn_from": 10}, "drawn_from says 10 of 9 items"),
        ({"slice": {"items": 6}}, {}, "lacks item"),
    ],
)
def test_a_slice_holds_the_items_that_were_drawn(
    asked: dict[str, Any], changes: dict[str, Any], reason: str | None, tmp_path: Path
) -> None:
    result = EvaluateResult.model_validate({**EVALUATION, "drawn_from": 9, **changes})
    numbers = Slice(items=5).numbers(result.drawn_from or 9)
    lines = [{**line, "index": number} for line, number in zip(choices([1, 1, None, 1, 0]), numbers, strict=True)]
    path = pack(tmp_path / "items.jsonl.zst", lines)
    kept = Kept(tmp_path, asked, sha256=digest_file(path))
    if reason is None:
        assert check(result, kept)
    else:
        with pytest.raises(Contradiction, match=reason):
            check(result, kept)


def test_the_items_are_those_that_were_written_down_wherever_a_result_says_that_they_lie(tmp_path: Path) -> None:
    pack(tmp_path / "items.jsonl.zst", choices([1, 1, None, 1, 0]))
    result = EvaluateResult.model_validate({**EVALUATION, "items_file": "../elsewhere/items.jsonl.zst"})
    assert check(result, Kept(tmp_path, {"limit": 5}))
    for slice_of in ({}, {"slice": {"items": 9}}):
        with pytest.raises(Contradiction, match="is not what was written"):
            check(
                result.model_copy(update={"drawn_from": 9} if slice_of else {}),
                Kept(tmp_path, slice_of, sha256="0" * 64),
            )
