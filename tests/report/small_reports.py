"""A run whose report shows every case: complete, partial, excluded, unsupported, failed, not asked for."""

import math
from datetime import UTC, datetime

from orchestrator.evidence.value import DENSE, Gap, Value, Values, Variant
from orchestrator.report import (
    ImageEntry,
    ModelEntry,
    Provenance,
    RunReport,
    StageEntry,
    VariantEntry,
)
from orchestrator.score.overall import score_all
from orchestrator.score.scores import RunScores
from orchestrator.store import StageStatus
from orchestrator.tracks import Mode, Place, Track, expect

HOSTILE = "<script>alert('x')</script>"
WANDA = Variant(method="wanda", setting="50%")
GPTQ = Variant(method="gptq", setting="W8A16")


def observe(track, part, name, variant, value, model, *, higher_is_better=True, unit=""):
    return Value(
        place=Place(track=track, part=part, name=name, model=model),
        variant=variant,
        value=value,
        unit=unit,
        higher_is_better=higher_is_better,
    )


def scoring_of(values, expectations, *, gaps=(), variants=(), **facts) -> RunScores:
    scores = score_all(expectations, Values(values, gaps), variants=variants)
    return RunScores(run="run", mode=Mode.PAPER, values=tuple(values), scores=scores).model_copy(update=facts)


def values_of(model):
    accuracy = {DENSE: 0.61, WANDA: 0.5, GPTQ: 0.6}
    perplexity = {DENSE: 5.12, WANDA: 6.46, GPTQ: math.nan}
    found = []
    for variant in (DENSE, WANDA, GPTQ):
        found += [
            observe(1, "knowledge", "mmlu", variant, accuracy[variant], model, unit="fraction"),
            observe(1, "inference", "wikitext2", variant, perplexity[variant], model, higher_is_better=False),
            observe(4, "memory", "peak_memory_bytes", variant, 3 * 2**30, model, higher_is_better=False, unit="bytes"),
            observe(4, "size", "disk_bytes", variant, 2**30, model, higher_is_better=False, unit="bytes"),
            observe(4, "macs", "macs", variant, 8.5e11, model, higher_is_better=False, unit="macs"),
        ]
    found.append(observe(3, "time", "compress_seconds", WANDA, 241.0, model, higher_is_better=False, unit="seconds"))
    found.append(observe(3, "memory", "peak_memory_bytes", WANDA, 2**34, model, higher_is_better=False, unit="bytes"))
    return found


def make_report(model="tiny-llama", run_id="run-7", message="vLLM no longer serves 2:4 checkpoints") -> RunReport:
    values = values_of(model)
    gaps = [
        Gap(variant=GPTQ, track=Track.TRAINING_CONSUMPTION, reason="compress failed: out of memory"),
        Gap(variant=WANDA, track=Track.HARDWARE_ACCELERATION, reason=message),
    ]
    tracks = [
        expect(Track.PERFORMANCE, [model]),
        expect(Track.TRAINING_CONSUMPTION, [model]),
        expect(Track.INFERENCE_CONSUMPTION, [model]),
        expect(Track.HARDWARE_ACCELERATION, [model], backends=["vllm"]),
    ]
    return RunReport(
        created=datetime(2026, 11, 22, 12, tzinfo=UTC),
        runtime="process",
        device="a test processor",
        models=(ModelEntry(name=model, source=f"dir:{model}", parameter_count=6_738_415_616, digest="ab" * 32),),
        variants=(
            VariantEntry(variant=WANDA, image="wanda", calibration="c4, 128 x 2048 tokens, seed 0"),
            VariantEntry(variant=GPTQ, image="gptq", notes=("quantization is simulated",)),
        ),
        backends=("vllm",),
        scoring=scoring_of(values, tracks, gaps=gaps, variants=[DENSE, WANDA, GPTQ], run=run_id),
        stages=(
            StageEntry(
                name=f"compress {model} wanda 50%",
                operation="compress",
                status=StageStatus.CACHED,
                key="cd" * 32,
                wall_seconds=245.5,
                notes=("weights are stored dense", "50.0% zeros"),
            ),
            StageEntry(
                name=f"benchmark {model} wanda 50% vllm",
                operation="benchmark",
                status=StageStatus.UNSUPPORTED,
                message=message,
                hint="choose another back end",
            ),
            StageEntry(
                name=f"compress {model} gptq W8A16",
                operation="compress",
                status=StageStatus.FAILED,
                key="ef" * 32,
                wall_seconds=3.0,
                message="out of memory",
            ),
        ),
        provenance=Provenance(
            harness_digest="12" * 32,
            device_model="a test processor",
            images=(ImageEntry(name="wanda", identity="process:34ab:cp311", libraries={"torch": "2.13.0"}),),
            data_origins={"wikitext2": "local files"},
            notes=("dtype float32: the processor has no bfloat16 arithmetic",),
        ),
        results_path="runs/run-7",
    )
