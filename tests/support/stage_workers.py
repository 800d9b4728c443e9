"""Worker stand-ins for the fake runtime: plausible results of the right shape, made without any library."""

import json
import math
from pathlib import Path
from typing import TypeVar

import zstandard

from harness.contract import (
    ARTIFACT_NAME,
    DESCRIPTOR_NAME,
    BenchmarkRequest,
    BenchmarkResult,
    CheckpointDescriptor,
    CheckpointFormat,
    CompressionCost,
    CompressRequest,
    CompressResult,
    DatasetDescriptor,
    DatasetSource,
    Descriptor,
    Dtype,
    EvaluateRequest,
    EvaluateResult,
    FetchRequest,
    FetchResult,
    Memory,
    ProfileResult,
    Speed,
    WorkRequest,
    WorkResult,
    canonical_json,
    describe_tree,
)

Kind = TypeVar("Kind", CheckpointDescriptor, DatasetDescriptor)
ITEMS = 60
MEMORY = Memory(peak_memory_bytes=1000, method="peak-rss")


def honest_worker(request: WorkRequest, output: Path) -> WorkResult:
    """Answers every operation; a pruned model is half as costly and 10 % worse than the dense one."""
    if isinstance(request, FetchRequest):
        return FetchResult(artifact=_fetched(request, output))
    if isinstance(request, CompressRequest):
        cost = CompressionCost(load_seconds=1, compress_seconds=2, save_seconds=1, memory=MEMORY)
        return CompressResult(artifact=checkpoint(output, request.parameters.method), cost=cost)
    pruned = is_pruned(request)
    if isinstance(request, EvaluateRequest):
        return _evaluated(request, pruned)
    if isinstance(request, BenchmarkRequest):
        speeds = tuple(
            Speed(batch_size=size, decode_tokens_per_second=20, samples=(20, 20), prefill_tokens_per_second=100)
            for size in request.parameters.batch_sizes
        )
        return BenchmarkResult(
            backend=request.parameters.backend,
            protocol="speed/1-1",
            speeds=speeds,
            load_seconds=1,
            memory=MEMORY,
            dtype=Dtype.FLOAT32,
            dtype_reason="test",
        )
    return ProfileResult(
        disk_bytes=100,
        weight_bytes=100,
        parameter_count=10,
        macs={"macs/shape": 100, "macs/density": 100, "macs/paper-bitops": 50 if pruned else 100},
        macs_tokens=128,
        memory=MEMORY,
        kv_cache_bytes=1,
        protocol="profile/test",
        dtype=Dtype.FLOAT32,
        dtype_reason="test",
    )


def keeping_worker(request: WorkRequest, output: Path) -> WorkResult:
    """As the honest worker, but with outcomes: a pruned model gets every third item wrong that dense gets right."""
    result = honest_worker(request, output)
    if not (isinstance(request, EvaluateRequest) and isinstance(result, EvaluateResult)):
        return result
    pruned, texts = is_pruned(request), request.parameters.task == "wikitext2"
    if texts:
        losses = [2.0 + 0.1 * (index % 7) + 0.2 * pruned for index in range(ITEMS)]
        lines = [{"index": n, "negative_log_likelihood": loss * 9, "tokens": 9} for n, loss in enumerate(losses)]
        value = math.exp(math.fsum(losses) / ITEMS)
    else:
        right = [float(index % 2 == 0 and not (pruned and index % 3 == 0)) for index in range(ITEMS)]
        lines = [
            {"index": n, "document": f"{n:x}", "picked": 0, "correct": {result.metric: score}}
            for n, score in enumerate(right)
        ]
        value = math.fsum(right) / ITEMS
    packed = zstandard.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    (output / result.items_file).write_bytes(packed)
    facts = {"metrics": {result.metric: value}, "items": ITEMS, "items_available": ITEMS}
    return result.model_copy(update=facts)


def is_pruned(request: WorkRequest) -> bool:
    return "sparsegpt" in (Path(request.inputs["checkpoint"]) / DESCRIPTOR_NAME).read_text(encoding="utf-8")


def checkpoint(output: Path, method: str | None = None) -> CheckpointDescriptor:
    folder = output / ARTIFACT_NAME
    folder.mkdir()
    (folder / "model.safetensors").write_text(f"weights {method}", encoding="utf-8")
    return write_descriptor(
        folder,
        CheckpointDescriptor(
            format=CheckpointFormat.DENSE,
            dtype=Dtype.BFLOAT16,
            architecture="LlamaForCausalLM",
            parameter_count=10,
            source="pypi:test",
            method=method,
            files=describe_tree(folder),
        ),
    )


def write_descriptor(folder: Path, descriptor: Kind) -> Kind:
    (folder / DESCRIPTOR_NAME).write_bytes(canonical_json(descriptor.model_dump(mode="json")))
    return descriptor


def _fetched(request: FetchRequest, output: Path) -> Descriptor:
    source = request.parameters.source
    if not isinstance(source, DatasetSource):
        return checkpoint(output)
    folder = output / ARTIFACT_NAME
    folder.mkdir()
    (folder / "test.jsonl.gz").write_bytes(source.name.encode())
    return write_descriptor(
        folder, DatasetDescriptor(name=source.name, origin="local", rows={"test": 1}, files=describe_tree(folder))
    )


def _evaluated(request: EvaluateRequest, pruned: bool) -> EvaluateResult:
    perplexity = request.parameters.task == "wikitext2"
    metric = "perplexity" if perplexity else "acc_norm"
    value = (10.0 if pruned else 9.0) if perplexity else (0.45 if pruned else 0.5)
    return EvaluateResult(
        task=request.parameters.task,
        protocol=f"test/{request.parameters.task}",
        metric=metric,
        metrics={metric: value},
        items=4,
        items_available=4,
        items_file="items.jsonl.zst",
        dataset_origin="local",
        dtype=Dtype.FLOAT32,
        dtype_reason="test",
        wall_seconds=1,
    )
