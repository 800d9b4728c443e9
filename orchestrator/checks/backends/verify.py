"""The self-test from beginning to end: image, checkpoint, two benchmarks, checks, record."""

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
from orchestrator.checks.backends.checks import SERVES, check_agreement, check_result
from orchestrator.checks.backends.record import FOLDER_NAME, Check, Outcome, Verification, write_verification
from orchestrator.checks.probe import write_probe
from orchestrator.errors import OrchestratorError
from orchestrator.host import locks
from orchestrator.host.devices import ChosenDevice
from orchestrator.host.files import remove_if_there
from orchestrator.images.image import Image
from orchestrator.run import resources
from orchestrator.run.verdict import judge
from orchestrator.runtime.base import Invocation, Runtime
from orchestrator.stages import ImageIdentity, Limits
from orchestrator.store import Failure

REFERENCE = "transformers"
_LIMITS = Limits(deadline_seconds=3600.0)
_ASKED = BenchmarkParameters(
    backend=REFERENCE, prompt_tokens=16, generate_tokens=24, batch_sizes=(1, 2), warmup=1, repeats=3
)


@dataclass(frozen=True)
class Subject:
    """A backend and the image that offers it."""

    image: Image
    backend: BackendDescription


def verify_backend(
    subject: Subject,
    reference: Subject,
    device: ChosenDevice,
    runtime: Runtime,
    root: Path,
    note: Callable[[str], None],
) -> tuple[Verification, Path]:
    """Put a backend to the test and keep the outcome below the store's folder `root`, where its path is returned.

    What the worker saw and said is kept beside it. The reference backend computes on the CPU, in float32.

    Raises:
        BadImage: an image cannot be built.
        RuntimeUnavailable: the runtime fails, which says nothing about the backend.
    """
    name = f"{subject.backend.name}-{device.device.kind.value}"
    folder = root / FOLDER_NAME / name
    remove_if_there(folder)
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
        self.note(f"trying {subject.backend.name} on {device.kind.value}, once nothing else is timed there")
        folder = self.folder / subject.backend.name
        folder.mkdir()
        invocation = Invocation(
            image=subject.image,
            operation=Operation.BENCHMARK,
            parameters=_ASKED.model_copy(update={"backend": subject.backend.name}),
            folder=folder,
            stage=f"verify-{subject.backend.name}",
            run="verify",
            inputs={"checkpoint": self.checkpoint},
            device=device,
            limits=_LIMITS,
        )
        lock = resources.device_lock_path(device.uuids[0] if device.uuids else device.kind.value)
        with locks.hold(lock):
            completed = self.runtime.run(invocation, lambda event: None, threading.Event())
        return identity, judge(invocation, completed)


def _judge(answer: ResultEvent | Failure, subject: Subject, reference: Subject, trial: _Trial) -> tuple[Check, ...]:
    if isinstance(answer, Failure):
        said = f"{answer.message} ({answer.hint})" if answer.hint else answer.message
        return (Check(name=SERVES, outcome=Outcome.FAILED, message=said),)
    result = _benchmarked(answer)
    if subject.backend.name == reference.backend.name:
        expected, absent = None, "it is the reference itself"
    else:
        expected, absent = _expected(reference, trial)
    return (*check_result(result, _ASKED), check_agreement(result, expected, absent))


def _expected(reference: Subject, trial: _Trial) -> tuple[BenchmarkResult | None, str]:
    """What the reference makes of the same request; None, and why, where it cannot be run."""
    try:
        _, answer = trial.run(reference, Device(kind=DeviceKind.CPU))
    except OrchestratorError as failure:
        return None, f"the reference could not be run: {failure.message}"
    if isinstance(answer, Failure):
        return None, f"the reference could not be run: {answer.message}"
    return _benchmarked(answer), ""


def _benchmarked(answer: ResultEvent) -> BenchmarkResult:
    assert isinstance(answer.result, BenchmarkResult)  # noqa: S101  the request was a benchmark
    return answer.result
