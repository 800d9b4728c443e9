"""Worker stand-ins for the fake runtime: plausible results of the right shape, made without any library."""

import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
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
    FidelityRequest,
    FidelityResult,
    Memory,
    PackageModel,
    ProfileResult,
    Sparsity,
    Speed,
    StatesDescriptor,
    StatesRequest,
    StatesResult,
    WorkRequest,
    WorkResult,
    canonical_json,
    describe_tree,
)
from harness.contract.divergence import divergence_metrics
from harness.contract.items import NOT_FINITE, FidelityItem
from harness.contract.tasks import load_task
from tests.support.safetensors_files import bf16, plain, write_safetensors

Kind = TypeVar("Kind", CheckpointDescriptor, DatasetDescriptor, StatesDescriptor)
ITEMS = 60
MEMORY = Memory(peak_memory_bytes=1000, method="peak-rss")


def honest_worker(request: WorkRequest, output: Path) -> WorkResult:
    """Answers every operation; a pruned model is cheaper, each cost by its own factor, and 10 % worse than dense."""
    if isinstance(request, FetchRequest):
        return FetchResult(artifact=_fetched(request, output))
    if isinstance(request, CompressRequest):
        cost = CompressionCost(load_seconds=1, compress_seconds=2, save_seconds=1, memory=MEMORY)
        return CompressResult(artifact=_compressed(request, output), cost=cost)
    if isinstance(request, StatesRequest):
        return _kept(request, output)
    if isinstance(request, FidelityRequest):
        return _compared(request, output)
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
    if result.metric == "perplexity":
        items = segments([2.0 + 0.1 * (index % 7) + 0.2 * pruned for index in range(ITEMS)])
    else:
        items = questions([index % 2 == 0 and not (pruned and index % 3 == 0) for index in range(ITEMS)], result.metric)
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


def _kept(request: StatesRequest, output: Path) -> StatesResult:
    """States of four items, of three predicted tokens each: two values a state, eight tokens that there are."""
    folder, items = output / ARTIFACT_NAME, 4
    folder.mkdir()
    states = {f"states.{number}": bf16(np.ones((3, 2))) for number in range(items)}
    write_safetensors(folder / "states-00001.safetensors", states)
    write_safetensors(folder / "head.safetensors", {"weight": bf16(np.ones((8, 2)))})
    table = np.array([[number, 1, 3] for number in range(items)], np.int32)
    text = {"requests": plain("I32", table), "tokens": plain("I32", np.zeros(4 * items, np.int32))}
    write_safetensors(folder / "tokens.safetensors", text)
    described = StatesDescriptor(
        files=describe_tree(folder),
        checkpoint=_descriptor(request.inputs["checkpoint"]).digest,
        dataset=DatasetDescriptor.model_validate_json(
            (Path(request.inputs["dataset"]) / DESCRIPTOR_NAME).read_bytes()
        ).digest,
        task=request.parameters.task,
        protocol="ppl/test",
        items=items,
        items_available=items,
        requests=items,
        tokens=3 * items,
        hidden_size=2,
        vocabulary_size=8,
        dtype=Dtype.BFLOAT16,
        batch_tokens=64,
    )
    return StatesResult(
        artifact=write_descriptor(folder, described),
        dtype=Dtype.BFLOAT16,
        dtype_reason="test",
        load_seconds=0,
        score_seconds=0,
    )


def _compared(request: FidelityRequest, output: Path) -> FidelityResult:
    """Divergences of 0.01 to 0.12 nats, token by token."""
    states = StatesDescriptor.model_validate_json((Path(request.inputs["states"]) / DESCRIPTOR_NAME).read_bytes())
    items = [
        FidelityItem(
            index=index,
            tokens=3,
            divergences=[(3 * index + token + 1) / 100 for token in range(3)],
            same_top=2,
            right_probability=1.0,
            dense_right_probability=1.3,
            squared_change=0.03,
            nats=3.3 + 0.1 * index,
            dense_nats=3.0,
        )
        for index in range(states.items)
    ]
    write_items(output / "items.jsonl.zst", (item.model_dump(mode="json") for item in items))
    return FidelityResult(
        task=request.parameters.task,
        engine=request.parameters.engine,
        protocol=request.parameters.protocol_of(f"kl/{states.protocol}"),
        states=states.digest,
        metrics=divergence_metrics(items),
        items=len(items),
        items_available=states.items_available,
        tokens=sum(item.tokens for item in items),
        items_file="items.jsonl.zst",
        dtype=Dtype.BFLOAT16,
        dtype_reason="test",
        wall_seconds=0,
        load_seconds=0,
        score_seconds=0,
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


_task = cache(load_task)


def _evaluated(request: EvaluateRequest, output: Path, pruned: bool) -> EvaluateResult:
    """Of 20 items: a perplexity of 9, of 10 when pruned; 10 right answers, 9 when pruned."""
    task = _task(request.parameters.task)
    items = (
        segments([math.log(10 if pruned else 9)] * 20)
        if task.metric == "perplexity"
        else questions([True] * (10 - pruned) + [False] * (10 + pruned), task.metric)
    )
    result = EvaluateResult(
        task=task.name,
        engine=request.parameters.engine,
        protocol=request.parameters.protocol_of(task.protocol),
        metric=task.metric,
        metrics={task.metric: 0},
        items=1,
        items_available=1,
        items_file="items.jsonl.zst",
        dataset_origin="local",
        dtype=Dtype.FLOAT32,
        dtype_reason="test",
        wall_seconds=1,
    )
    return with_items(result, output, items[: request.parameters.limit], available=len(items))
