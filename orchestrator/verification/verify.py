"""The self-test from beginning to end: image, checkpoint, two benchmarks, checks, record."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.contract import (
    BackendDescription,
    BenchmarkParameters,
    BenchmarkResult,
    Device,
    DeviceKind,
    Operation,
    ResultEvent,
    harness_digest,
)
from orchestrator.devices import ChosenDevice
from orchestrator.images import Image
from orchestrator.running.resources import device_lock_path
from orchestrator.running.verdict import judge
from orchestrator.runtime.base import ImageIdentity, Invocation, Limits, Runtime
from orchestrator.store import Failure, locks
from orchestrator.verification.checks import check_agreement, check_result
from orchestrator.verification.probe import write_probe
from orchestrator.verification.record import FOLDER_NAME, Check, Outcome, Verification, write_verification

REFERENCE = "transformers"
_LIMITS = Limits(deadline_seconds=3600.0)
_BATCH_SIZES = (1, 2)
_PROMPT_TOKENS, _GENERATE_TOKENS = 16, 24


@dataclass(frozen=True)
class Subject:
    """A backend and the image that offers it."""

    image: Image
    backend: BackendDescription


def verify_backend(
    subject: Subject, reference: Subject, device: ChosenDevice, runtime: Runtime, root: Path, note: Callable[[str], None]
) -> tuple[Verification, Path]:
    """Put a backend to the test and keep the outcome below the store's folder `root`, where its path is returned.

    What the worker saw and said is kept beside it. The reference backend computes on the CPU, in float32.

    Raises:
        BadImage: an image cannot be built.
        RuntimeUnavailable: the runtime fails, which says nothing about the backend.
    """
    name = f"{subject.backend.name}-{device.device.kind.value}"
    folder = root / FOLDER_NAME / name
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint = folder / "checkpoint"
    write_probe(checkpoint)
    trial = _Trial(runtime, checkpoint, folder, note)
    identity, answer = trial.run(subject, device.device)
    verification = Verification(
        backend=subject.backend.name,
        image=subject.image.name,
        identity=identity,
        runtime=runtime.name.value,
        device_kind=device.device.kind,
        device_model=device.model,
        driver=answer.environment.driver if isinstance(answer, ResultEvent) else None,
        harness_digest=harness_digest(),
        libraries=answer.environment.libraries if isinstance(answer, ResultEvent) else {},
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        checks=_judge(answer, subject, reference, trial),
    )
    return verification, write_verification(root, verification)


@dataclass(frozen=True)
class _Trial:
    """The same short benchmark of the same checkpoint, whoever is asked."""

    runtime: Runtime
    checkpoint: Path
    folder: Path
    note: Callable[[str], None]

    def run(self, subject: Subject, device: Device) -> tuple[ImageIdentity, ResultEvent | Failure]:
        identity = self.runtime.prepare(subject.image, device.kind, self.note)
        self.note(f"trying {subject.backend.name} on {device.kind.value}")
        folder = self.folder / subject.backend.name
        folder.mkdir()
        invocation = Invocation(
            image=subject.image,
            operation=Operation.BENCHMARK,
            parameters=BenchmarkParameters(
                backend=subject.backend.name,
                prompt_tokens=_PROMPT_TOKENS,
                generate_tokens=_GENERATE_TOKENS,
                batch_sizes=_BATCH_SIZES,
                repeats=3,
            ),
            folder=folder,
            stage=f"verify-{subject.backend.name}",
            run="verify",
            inputs={"checkpoint": self.checkpoint},
            device=device,
            limits=_LIMITS,
        )
        lock = device_lock_path(device.uuids[0] if device.uuids else device.kind.value)
        with locks.hold(lock):
            completed = self.runtime.run(invocation, lambda event: None, threading.Event())
        return identity, judge(invocation.stage, folder, completed, _LIMITS.deadline_seconds)


def _judge(
    answer: ResultEvent | Failure, subject: Subject, reference: Subject, trial: _Trial
) -> tuple[Check, ...]:
    if isinstance(answer, Failure):
        said = f"{answer.message} ({answer.hint})" if answer.hint else answer.message
        return (Check(name="serves the checkpoint", outcome=Outcome.FAILED, message=said),)
    result = answer.result
    assert isinstance(result, BenchmarkResult)  # noqa: S101  the verdict compares the operation
    checks = tuple(check_result(result, _BATCH_SIZES, _GENERATE_TOKENS))
    if subject.backend.name == reference.backend.name:
        return (*checks, check_agreement(result, None, "it is the reference itself"))
    _, expected = trial.run(reference, Device(kind=DeviceKind.CPU))
    if isinstance(expected, Failure):
        return (*checks, check_agreement(result, None, f"the reference could not be run: {expected.message}"))
    assert isinstance(expected.result, BenchmarkResult)  # noqa: S101  as above
    return (*checks, check_agreement(result, expected.result, ""))
