"""Worker stand-ins for the fake runtime: plausible results of the right shape, made without any library."""

import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
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
    PackageModel,
    ProfileResult,
    Sparsity,
    Speed,
    WorkRequest,
    WorkResult,
    canonical_json,
    describe_tree,
)
from harness.contract.items import NOT_FINITE
from tests.support.safetensors_files import bf16, write_safetensors

Kind = TypeVar("Kind", CheckpointDescriptor, DatasetDescriptor)
ITEMS = 60
MEMORY = Memory(peak_memory_bytes=1000, method="peak-rss")


def honest_worker(request: WorkRequest, output: Path) -> WorkResult:
    """Answers every operation; a pruned model is cheaper, each cost by its own factor, and 10 % worse than dense."""
    if isinstance(request, FetchRequest):
        return FetchResult(artifact=_fetched(request, output))
    if isinstance(request, CompressRequest):
        cost = CompressionCost(load_seconds=1, compress_seconds=2, save_seconds=1, memory=MEMORY)
        return CompressResult(artifact=_compressed(request, output), cost=cost)
    pruned = is_pruned(request)
    if isinstance(request, EvaluateRequest):
        return _evaluated(request, output, pruned)
    if isinstance(request, BenchmarkRequest):
        decode, prefill = (30, 125) if pruned else (20, 100)
        speeds = tuple(
            Speed(
                batch_size=size,
                decode_tokens_per_second=decode,
                samples=(decode, decode),
                prefill_tokens_per_second=prefill,
            )
            for size in request.parameters.batch_sizes
        )
        return BenchmarkResult(
            backend=request.parameters.backend,
            protocol="speed/1-1",
            speeds=speeds,
            load_seconds=1,
            memory=_memory(pruned, 2),
            dtype=Dtype.FLOAT32,
            dtype_reason="test",
        )
    profiled = _descriptor(request.inputs["checkpoint"])
    sparse = profiled.sparsity is not None
    left = 2048 - (128 * 4 if sparse else 0)
    return ProfileResult(
        disk_bytes=profiled.size_bytes,
        weight_bytes=2 * profiled.parameter_count,
        parameter_count=profiled.parameter_count,
        macs={"macs/shape": 2048, "macs/density": left, "macs/paper-bitops": 1024 if sparse else 2048},
        macs_tokens=128,
        memory=_memory(pruned, 1),
        kv_cache_bytes=1,
        protocol="profile/test",
        dtype=Dtype.FLOAT32,
        dtype_reason="test",
    )


def _memory(pruned: bool, times: int) -> Memory:
    return Memory(peak_memory_bytes=times * (800 if pruned else 1000), method=MEMORY.method)


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
        losses = [line["negative_log_likelihood"] for line in lines]
        found = [loss / line["tokens"] for loss, line in zip(losses, lines, strict=True) if loss is not None]
        value = math.exp(math.fsum(found) / len(found))
    else:
        found = [line["correct"][result.metric] for line in lines if line["correct"]]
        value = math.fsum(found) / len(found)
    facts = {
        "metrics": {result.metric: value},
        "items": len(found),
        "items_available": available or len(lines),
        "excluded": {NOT_FINITE: len(lines) - len(found)} if len(found) < len(lines) else {},
    }
    return result.model_copy(update=facts)


def is_pruned(request: WorkRequest) -> bool:
    return "sparsegpt" in (Path(request.inputs["checkpoint"]) / DESCRIPTOR_NAME).read_text(encoding="utf-8")


def checkpoint(output: Path, source: str, **facts: object) -> CheckpointDescriptor:
    """Ten weights, eight of them a linear's; of a pruned model every second pair of these is zero."""
    folder = output / ARTIFACT_NAME
    folder.mkdir()
    drawn = hashlib.sha256(str(facts.get("method")).encode()).digest()
    linear = np.frombuffer(drawn[:8], dtype=np.uint8).astype(np.float32) + 1
    if facts.get("sparsity") is not None:
        linear[[0, 1, 4, 5]] = 0
    tensors = {"model.layers.0.mlp.up_proj.weight": bf16(linear.reshape(1, 8)), "model.norm.weight": bf16([1, 1])}
    write_safetensors(folder / "model.safetensors", tensors)
    return write_descriptor(
        folder,
        CheckpointDescriptor(
            format=CheckpointFormat.DENSE,
            dtype=Dtype.BFLOAT16,
            architecture="LlamaForCausalLM",
            parameter_count=10,
            source=source,
            files=describe_tree(folder),
            **facts,  # type: ignore[arg-type]
        ),
    )


def _compressed(request: CompressRequest, output: Path) -> CheckpointDescriptor:
    asked, parent = request.parameters, _descriptor(request.inputs["checkpoint"])
    target, pattern = asked.setting.sparsity, asked.setting.name if asked.setting.zeros_of else "unstructured"
    return checkpoint(
        output,
        parent.source,
        method=asked.method,
        setting=asked.setting.name,
        parent=parent.digest,
        sparsity=None if target is None else Sparsity(pattern=pattern, target=target, measured=0.5),
    )


def _descriptor(folder: str) -> CheckpointDescriptor:
    return CheckpointDescriptor.model_validate_json((Path(folder) / DESCRIPTOR_NAME).read_bytes())


def write_descriptor(folder: Path, descriptor: Kind) -> Kind:
    (folder / DESCRIPTOR_NAME).write_bytes(canonical_json(descriptor.model_dump(mode="json")))
    return descriptor


def _fetched(request: FetchRequest, output: Path) -> Descriptor:
    source = request.parameters.source
    if not isinstance(source, DatasetSource):
        assert isinstance(source, PackageModel)
        return checkpoint(output, source.text)
    folder = output / ARTIFACT_NAME
    folder.mkdir()
    (folder / "test.jsonl.gz").write_bytes(gzip.compress(source.name.encode(), mtime=0))
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
