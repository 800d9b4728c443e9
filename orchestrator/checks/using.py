"""Does an image do what it offers? Each method compresses a tiny model, each backend serves it; then the results are
looked at from outside: files, descriptor, weights, and what the evaluator makes of them.

Not covered: whether a method is a good one, other operations than `compress` and `benchmark`, and options.
"""

import gzip
import json
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.contract import (
    ARTIFACT_NAME,
    DESCRIPTOR_NAME,
    BackendDescription,
    BenchmarkParameters,
    BenchmarkResult,
    Calibration,
    CheckpointDescriptor,
    CompressParameters,
    CompressResult,
    DatasetDescriptor,
    Device,
    EvaluateParameters,
    EvaluateResult,
    MethodDescription,
    Operation,
    Parameters,
    Setting,
    TaskDescription,
    canonical_json,
    describe_tree,
)
from harness.contract.claims import count_claims
from harness.contract.weights import BadWeights
from orchestrator.checks.backends.checks import check_result
from orchestrator.checks.backends.record import Outcome
from orchestrator.checks.conformance import Check
from orchestrator.checks.probe import write_probe
from orchestrator.images.image import Image
from orchestrator.plan.resolving import planned_format
from orchestrator.run.verdict import judge
from orchestrator.runtime.base import Invocation, Runtime
from orchestrator.stages import Limits
from orchestrator.store import BadArtifact, Failure
from orchestrator.store.described import check_new

EVALUATED_TASK = "piqa"
_LIMITS = Limits(deadline_seconds=1800.0)
_SAMPLES, _SEQUENCE_TOKENS = 4, 128
_WORDS = "the a river stone carries old light over slow water under grey hills while birds return late"
_OUTCOMES = {Outcome.PASSED: True, Outcome.FAILED: False, Outcome.NOT_APPLICABLE: None}


@dataclass(frozen=True)
class Evaluator:
    """The prepared image that evaluates what methods make; None, and why, where none could be made ready."""

    image: Image | None
    absent: str = ""


@dataclass(frozen=True)
class Bench:
    """Where an image is used: `folder` is empty, and holds what every worker saw and said afterwards."""

    runtime: Runtime
    device: Device
    folder: Path
    evaluator: Evaluator
    _asked: list[str] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def dataset(self, name: str, split: str, rows: list[dict[str, Any]]) -> Path:
        """A published data set with these rows."""
        folder = self.folder / f"data-{name}-{split}"
        if not folder.exists():
            folder.mkdir()
            with gzip.GzipFile(folder / f"{split}.jsonl.gz", "wb", mtime=0) as file:
                file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
            descriptor = DatasetDescriptor(
                name=name,
                origin="made by `orchestrator images check`",
                rows={split: len(rows)},
                files=describe_tree(folder),
            )
            (folder / DESCRIPTOR_NAME).write_bytes(canonical_json(descriptor.model_dump(mode="json")))
        return folder

    def ask(self, image: Image, operation: Operation, parameters: Parameters, inputs: dict[str, Path]) -> "_Answer":
        """Run one worker as a stage's would be, and judge it so."""
        stage = f"use-{len(self._asked)}-{image.name}-{operation.value}"
        self._asked.append(stage)
        folder = self.folder / stage
        folder.mkdir()
        invocation = Invocation(
            image=image,
            operation=operation,
            parameters=parameters,
            folder=folder,
            stage=stage,
            run="check",
            inputs=inputs,
            device=self.device,
            limits=_LIMITS,
            task=_task(image, parameters),
        )
        completed = self.runtime.run(invocation, lambda event: None, threading.Event())
        verdict = judge(invocation, completed)
        if isinstance(verdict, Failure):
            return _Answer(None, f"{verdict.message} ({verdict.hint})" if verdict.hint else verdict.message, folder)
        return _Answer(verdict.result, "", invocation.output)


def _task(image: Image, parameters: Parameters) -> TaskDescription | None:
    """Of an evaluation, by the image that does it."""
    if not isinstance(parameters, EvaluateParameters):
        return None
    return next((task for task in image.tasks if task.name == parameters.task), None)


@dataclass(frozen=True)
class _Answer:
    """`result` None: `failure` says why. `folder` is the worker's output, or what is left of a failed attempt."""

    result: Any
    failure: str
    folder: Path


def use_image(bench: Bench, image: Image) -> Iterator[Check]:
    """Use all that a prepared image offers, and say of each thing whether it did what it should.

    Raises:
        RuntimeUnavailable: the runtime fails, which says nothing about the image.
    """
    write_probe(bench.checkpoint)
    for method in image.description.methods:
        yield from _use_method(bench, image, method)
    for backend in image.description.backends:
        yield from _use_backend(bench, image, backend)


def _use_method(bench: Bench, image: Image, method: MethodDescription) -> Iterator[Check]:
    try:
        setting = Setting.parse(method.default_setting)
    except ValueError as invalid:
        yield Check(f"{method.name} has a default setting", False, str(invalid))
        return
    asked = CompressParameters(method=method.name, setting=setting)
    inputs = {"checkpoint": bench.checkpoint}
    if method.calibration is not None:
        name = method.calibration.dataset
        text = Calibration(dataset=name, samples=_SAMPLES, sequence_length=_SEQUENCE_TOKENS, seed=0)
        asked = asked.model_copy(update={"calibration": text})
        inputs["calibration"] = bench.dataset(name, "train", _text_rows())
    answer = bench.ask(image, Operation.COMPRESS, asked, inputs)
    clause = f"{method.name} compresses a tiny model at {setting.name}"
    if not isinstance(answer.result, CompressResult):
        yield Check(clause, False, answer.failure)
        return
    yield Check(clause, True, f"in {answer.result.cost.compress_seconds:.2f} s")
    made, artifact = answer.result.artifact, answer.folder / ARTIFACT_NAME
    whole = _is_described(method, artifact, made)
    yield whole
    if not whole.passed:
        return
    yield _has_the_planned_format(method, made, asked)
    yield _content_is_as_described(method, artifact, made)
    yield _is_evaluated(bench, method, artifact)


def _is_described(method: MethodDescription, artifact: Path, made: CheckpointDescriptor) -> Check:
    clause = f"{method.name}: its files are what its descriptor says"
    try:
        check_new(artifact, made)
    except BadArtifact as bad:
        return Check(clause, False, str(bad))
    return Check(clause, True, f"{len(made.files)} files, {made.size_bytes / 2**20:.1f} MiB")


def _has_the_planned_format(method: MethodDescription, made: CheckpointDescriptor, asked: CompressParameters) -> Check:
    planned = planned_format(method, asked.setting, asked.options)
    return Check(
        f"{method.name}: it is stored in the format that {method.name} is described with",
        made.format == planned,
        f"format is {made.format.value}" + ("" if made.format == planned else f" instead of {planned.value}"),
    )


def _content_is_as_described(method: MethodDescription, artifact: Path, made: CheckpointDescriptor) -> Check:
    """Everything that a descriptor says and that can be counted, see `harness.contract.claims`."""
    clause = f"{method.name}: its weights are what it says of them"
    try:
        counted = count_claims(artifact, made)
    except BadWeights as bad:
        return Check(clause, False, str(bad))
    zeros = "" if counted.zeros is None else f", {counted.zeros} of {counted.weights} weights of linears zero"
    found = f"{counted.parameter_count} parameters{zeros}"
    return Check(clause, not counted.untrue, "; ".join(map(str, counted.untrue)) or found)


def _is_evaluated(bench: Bench, method: MethodDescription, artifact: Path) -> Check:
    clause = f"{method.name}: what it made can be evaluated"
    if bench.evaluator.image is None:
        return Check(clause, None, bench.evaluator.absent)
    inputs = {"checkpoint": artifact, "dataset": bench.dataset(EVALUATED_TASK, "validation", _choice_rows())}
    answer = bench.ask(bench.evaluator.image, Operation.EVALUATE, EvaluateParameters(task=EVALUATED_TASK), inputs)
    if not isinstance(answer.result, EvaluateResult):
        return Check(clause, False, answer.failure)
    value = answer.result.metrics[answer.result.metric]
    lost = sum(answer.result.excluded.values())
    said = f"{answer.result.metric} {value:.3f} over {answer.result.items} items, {lost} of them could not be scored"
    return Check(clause, math.isfinite(value) and not lost, said)


def _use_backend(bench: Bench, image: Image, backend: BackendDescription) -> Iterator[Check]:
    asked = BenchmarkParameters(
        backend=backend.name, prompt_tokens=16, generate_tokens=24, batch_sizes=(1, 2), warmup=1, repeats=3
    )
    answer = bench.ask(image, Operation.BENCHMARK, asked, {"checkpoint": bench.checkpoint})
    if not isinstance(answer.result, BenchmarkResult):
        yield Check(f"{backend.name} serves a tiny model", False, answer.failure)
        return
    yield Check(f"{backend.name} serves a tiny model", True, f"as backend {answer.result.backend!r}")
    for one in check_result(answer.result, asked):
        yield Check(f"{backend.name}: {one.name}", _OUTCOMES[one.outcome], one.message)


def _text_rows() -> list[dict[str, Any]]:
    """Texts longer than a calibration sequence, which is in bytes here; in the fields that data sets of text have."""
    words = _WORDS.split()
    texts = [
        " ".join(words[(row * 7 + place * (row % 5 + 1)) % len(words)] for place in range(120)) + "."
        for row in range(4 * _SAMPLES)
    ]
    return [{"text": text, "passage": text} for text in texts]


def _choice_rows() -> list[dict[str, Any]]:
    pairs = [("boil water", "use a pot", "use a hat"), ("cut bread", "use wool", "use a knife")]
    return [
        {"goal": goal, "sol1": one, "sol2": other, "label": place % 2}
        for place, (goal, one, other) in enumerate(pairs * 2)
    ]
