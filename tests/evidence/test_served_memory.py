"""Track 4's memory is that of the format as something serves it, from one thing that measured it for all."""

import pytest

from harness.contract import BenchmarkResult, Dtype, Memory, ProfileResult, Speed
from orchestrator.evidence.served_memory import (
    PROFILE,
    MemoryFigure,
    choose,
    memory_protocol,
    served_memory,
    unlike_the_format,
)
from orchestrator.evidence.value import DENSE, Value, Variant
from orchestrator.tracks import Place, Track

PRUNED, PACKED = Variant(method="wanda", setting="2:4"), Variant(method="gptq", setting="W4A16")
MODEL = "m"
DENSE_MADE = "packed weights are made dense"


def figure(by: str, variant: Variant, value: float = 1.0, unlike: str | None = None) -> MemoryFigure:
    place = Place(track=Track.INFERENCE_CONSUMPTION, part="memory", name="peak_memory_bytes", model=MODEL)
    return MemoryFigure(Value(place=place, variant=variant, value=value, higher_is_better=False), by, unlike)


def benchmark(**changes: object) -> BenchmarkResult:
    made: dict[str, object] = {
        "backend": "vllm",
        "protocol": "speed/8-4",
        "speeds": [
            Speed(batch_size=size, decode_tokens_per_second=1, samples=(1,), prefill_tokens_per_second=1)
            for size in (1, 8)
        ],
        "load_seconds": 1,
        "memory": Memory(peak_memory_bytes=5, method="peak-rss"),
        "kv_cache_tokens": 256,
        "dtype": Dtype.FLOAT16,
        "dtype_reason": "asked for",
    }
    return BenchmarkResult.model_validate(made | changes)


def profile(**changes: object) -> ProfileResult:
    made: dict[str, object] = {
        "disk_bytes": 1,
        "weight_bytes": 1,
        "parameter_count": 1,
        "macs": {"macs/shape": 1},
        "macs_tokens": 1,
        "memory": Memory(peak_memory_bytes=5, method="peak-rss"),
        "kv_cache_bytes": 1,
        "protocol": "memory/1-1-b1",
        "dtype": Dtype.FLOAT16,
        "dtype_reason": "asked for",
    }
    return ProfileResult.model_validate(made | changes)


def test_where_nothing_is_packed_the_profile_counts() -> None:
    figures = [figure("transformers", DENSE), figure(PROFILE, DENSE), figure("transformers", PRUNED)]
    figures.append(figure(PROFILE, PRUNED, 2.0))
    found = served_memory(figures, {})
    assert found.measured_by == PROFILE
    assert [(one.variant, one.value) for one in found.values] == [(DENSE, 1.0), (PRUNED, 2.0)]
    assert found.gaps == ()


def test_where_something_is_packed_that_counts_which_serves_most_as_they_are() -> None:
    figures = [
        *(figure(PROFILE, variant) for variant in (DENSE, PRUNED)),
        figure(PROFILE, PACKED, 9.0, unlike=DENSE_MADE),
        *(figure("vllm", variant, 3.0) for variant in (DENSE, PRUNED, PACKED)),
    ]
    found = served_memory(figures, {})
    assert found.measured_by == "vllm"
    assert [(one.variant, one.value) for one in found.values] == [(DENSE, 3.0), (PRUNED, 3.0), (PACKED, 3.0)]


def test_what_is_not_served_as_it_is_has_no_memory_and_says_why() -> None:
    figures = [
        *(figure(PROFILE, variant) for variant in (DENSE, PRUNED)),
        figure(PROFILE, PACKED, 9.0, unlike=DENSE_MADE),
        figure("llama-cpp", DENSE),
    ]
    found = served_memory(figures, {(PACKED, MODEL, "llama-cpp"): "not carried into a GGUF file"})
    assert [one.variant for one in found.values] == [DENSE, PRUNED]
    (gap,) = found.gaps
    assert (gap.variant, gap.part, gap.model) == (PACKED, "memory", MODEL)
    assert gap.reason == "memory counts as the profile holds it, and there: packed weights are made dense"


@pytest.mark.parametrize(
    ("absent", "why"),
    [({(PRUNED, MODEL, "vllm"): "its shapes are refused"}, "its shapes are refused"), ({}, "it was not measured")],
)
def test_what_the_chosen_one_could_not_measure_says_why(absent: dict[tuple[Variant, str, str], str], why: str) -> None:
    figures = [figure("vllm", DENSE), figure("vllm", PACKED), figure(PROFILE, PRUNED)]
    (gap,) = served_memory(figures, absent).gaps
    assert gap.variant == PRUNED
    assert gap.reason == f"memory counts as vllm holds it, and there: {why}"


def test_nothing_measured_is_nothing_chosen() -> None:
    assert choose([]) is None
    assert served_memory([], {}).measured_by is None


@pytest.mark.parametrize(
    ("result", "caveat", "unlike"),
    [
        (benchmark(dequantized=False), None, False),
        (benchmark(dequantized=True), None, True),
        (benchmark(dequantized=False), "dense fallback", True),
        (profile(dequantized=True), None, True),
        (profile(dequantized=False), None, False),
        (
            profile(notes=["awq weights dequantized on load; the peak memory is that of the dequantized model, not"]),
            None,
            True,
        ),
        (
            benchmark(notes=["served as dense weights: the gptq quantization brings no speed here (gptq weights …)"]),
            None,
            True,
        ),
        (
            benchmark(notes=["served as dense weights: the simulated quantization brings no speed here (…)"]),
            None,
            False,
        ),
        (benchmark(), None, False),
    ],
)
def test_a_memory_is_the_formats_own_unless_weights_were_made_dense_or_another_checkpoint_was_served(
    result: ProfileResult | BenchmarkResult, caveat: str | None, unlike: bool
) -> None:
    assert (unlike_the_format(result, caveat) is not None) is unlike


def test_memories_are_alike_where_backend_lengths_batches_and_room_are() -> None:
    assert memory_protocol(profile()) == "peak-rss"
    usual = memory_protocol(benchmark())
    assert usual == "peak-rss of vllm, speed/8-4 at batch 1, 8, room for 256 tokens"
    assert memory_protocol(benchmark(kv_cache_tokens=512)) != usual
    assert memory_protocol(benchmark(backend="native")) != usual
