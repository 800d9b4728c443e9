"""Worker stand-ins for the fake runtime: plausible results of the right shape, made without any library."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
        return _evaluated(request, output, pruned)
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
    """As the honest worker, with more items: a pruned model gets every third item wrong that dense gets right."""
    result = honest_worker(request, output)
    if not (isinstance(request, EvaluateRequest) and isinstance(result, EvaluateResult)):
        return result
    pruned = is_pruned(request)
    if request.parameters.task == "wikitext2":
        items = segments([2.0 + 0.1 * (index % 7) + 0.2 * pruned for index in range(ITEMS)])
    else:
        items = questions([index % 2 == 0 and not (pruned and index % 3 == 0) for index in range(ITEMS)])
    return with_items(result, output, items[: request.parameters.limit], available=ITEMS)


def questions(right: Sequence[bool], metric: str = "acc_norm") -> list[dict[str, Any]]:
    """Lines of an items file: questions of two choices, the first of which is the right one."""
    return [
        {
            "index": index,
            "document": f"{index:x}",
            "log_likelihoods": [-2.0, -3.0] if one else [-3.0, -2.0],
            "gold": 0,
            "picked": int(not one),
            "picked_norm": int(not one),
            "lengths": [5, 5],
            "correct": {metric: float(one)},
        }
        for index, one in enumerate(right)
    ]


def segments(losses: Sequence[float], tokens: int = 9) -> list[dict[str, Any]]:
    """Lines of an items file: segments with these losses of a token, in nats."""
    return [
        {"index": index, "negative_log_likelihood": loss * tokens, "tokens": tokens}
        for index, loss in enumerate(losses)
    ]


def write_items(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_bytes(zstandard.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))


def with_items(
    result: EvaluateResult, output: Path, lines: Sequence[Mapping[str, Any]], available: int | None = None
) -> EvaluateResult:
    """The result of these items, which are all that there are or the first of so many, with the file that it names."""
    write_items(output / result.items_file, lines)
    if "tokens" in lines[0]:
        losses = [line["negative_log_likelihood"] / line["tokens"] for line in lines]
        value = math.exp(math.fsum(losses) / len(losses))
    else:
        value = math.fsum(line["correct"][result.metric] for line in lines) / len(lines)
    facts = {"metrics": {result.metric: value}, "items": len(lines), "items_available": available or len(lines)}
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


def _evaluated(request: EvaluateRequest, output: Path, pruned: bool) -> EvaluateResult:
    """Of 20 items: a perplexity of 9, of 10 when pruned; 10 right answers, 9 when pruned."""
    perplexity = request.parameters.task == "wikitext2"
    metric = "perplexity" if perplexity else "acc_norm"
    items = (
        segments([math.log(10 if pruned else 9)] * 20)
        if perplexity
        else questions([True] * (10 - pruned) + [False] * (10 + pruned))
    )
    result = EvaluateResult(
        task=request.parameters.task,
        protocol=f"test/{request.parameters.task}",
        metric=metric,
        metrics={metric: 0},
        items=1,
        items_available=1,
        items_file="items.jsonl.zst",
        dataset_origin="local",
        dtype=Dtype.FLOAT32,
        dtype_reason="test",
        wall_seconds=1,
    )
    return with_items(result, output, items[: request.parameters.limit], available=len(items))
