"""A worker of imagined populations: it scores slices, goes on from what was left, and counts what it scores."""

import json
from collections import Counter
from pathlib import Path

import numpy as np

from harness.contract import (
    DESCRIPTOR_NAME,
    RESUME_NAME,
    BenchmarkResult,
    EvaluateRequest,
    EvaluateResult,
    EvaluationCost,
    Memory,
    WorkRequest,
    WorkResult,
)
from tests.support.stage_workers import honest_worker, questions, with_items

ITEMS = 1000
LOST = {None: 0.0, "sparsegpt": 0.0, "wanda": 0.2, "magnitude": 0.3}
"""Of what dense has right, the share that each method's checkpoint gets wrong."""
SERVED_BYTES = {None: 2000, "sparsegpt": 1400, "wanda": 1200, "magnitude": 1000}


def method_of(request: WorkRequest) -> str | None:
    """What made the checkpoint that a request names."""
    text = (Path(request.inputs["checkpoint"]) / DESCRIPTOR_NAME).read_text(encoding="utf-8")
    return json.loads(text)["method"]


def right(task: str, method: str | None, items: int = ITEMS) -> list[bool]:
    """Of dense's answers 7 in 10 are right in arc_easy, and half, as by guessing, in piqa."""
    generator = np.random.default_rng(list(task.encode()))
    known = generator.random(items) < (0.5 if task == "piqa" else 0.7)
    kept = np.random.default_rng([1, *task.encode()]).random(items) >= LOST[method]
    return list(known & kept)


class RacingWorker:
    """`scored` counts the items that were scored by method and task, `requests` are the evaluations asked for."""

    def __init__(self) -> None:
        self.scored: Counter[tuple[str | None, str]] = Counter()
        self.requests: list[EvaluateRequest] = []

    def __call__(self, request: WorkRequest, output: Path) -> WorkResult:
        result = honest_worker(request, output)
        if isinstance(request, EvaluateRequest) and isinstance(result, EvaluateResult):
            return self._scored(request, result, output)
        if isinstance(result, BenchmarkResult):
            memory = Memory(peak_memory_bytes=SERVED_BYTES[method_of(request)], method="peak-rss")
            return result.model_copy(update={"memory": memory})
        return result

    def _scored(self, request: EvaluateRequest, result: EvaluateResult, output: Path) -> EvaluateResult:
        task, drawn = request.parameters.task, request.parameters.slice
        self.requests.append(request)
        lines = questions(right(task, method_of(request)), result.metric)
        numbers = range(ITEMS) if drawn is None else drawn.numbers(ITEMS)
        before = self._go_on(output, numbers, ends=drawn is None)
        self.scored[method_of(request), task] += len(numbers) - before
        made = with_items(result, output, [lines[number] for number in numbers], available=ITEMS)
        cost = EvaluationCost(
            prepare_seconds=0,
            load_seconds=0,
            score_seconds=0,
            scored_items=len(numbers) - before,
            resumed_items=before,
            asked_tokens=0,
            computed_tokens=0,
            padding_tokens=0,
            parameter_count=1,
        )
        return made.model_copy(update={"drawn_from": None if drawn is None else ITEMS, "cost": cost})

    def _go_on(self, output: Path, numbers: "range | tuple[int, ...]", *, ends: bool) -> int:
        """How many of the items an earlier attempt had scored."""
        path = output / RESUME_NAME / "scored.json"
        held = set(json.loads(path.read_text())) if path.exists() else set()
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(sorted(held.union(numbers))))
        if ends:
            path.unlink()
            path.parent.rmdir()
        return len(held.intersection(numbers))
