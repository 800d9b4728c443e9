"""What answers a task's pieces: a model and its scorer, in this process or in several others."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from harness.contract import Device, DeviceKind, Dtype
from harness.environment import available_threads
from harness.evaluation.pieces import Answered, Piece, answer_piece

Report = Callable[[str], None]
"""Takes one sentence about an automatic choice, as it is made."""


@dataclass(frozen=True)
class EngineJob:
    """The model to load, and how to compute with it."""

    checkpoint: Path
    device: Device
    dtype: Dtype | None
    token_budget: int | None


@dataclass(frozen=True)
class EngineFacts:
    """What loading settled. `processes` have the model loaded."""

    dtype: Dtype
    dtype_reason: str
    load_seconds: float
    quantization_note: str | None
    processes: int = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenCounts:
    """`asked` is what one pass for each request would read; `computed` and `padding` went through the model.

    `operations` is what `Scorer.operations` says of it: None for a model of unknown shape.
    """

    asked: int = 0
    computed: int = 0
    padding: int = 0
    operations: int | None = 0

    def __add__(self, more: "TokenCounts") -> "TokenCounts":
        known = self.operations is not None and more.operations is not None
        return TokenCounts(
            self.asked + more.asked,
            self.computed + more.computed,
            self.padding + more.padding,
            (self.operations or 0) + (more.operations or 0) if known else None,
        )

    def __sub__(self, less: "TokenCounts") -> "TokenCounts":
        negative = None if less.operations is None else -less.operations
        return self + TokenCounts(-less.asked, -less.computed, -less.padding, negative)


class Engine(Protocol):
    """Answers pieces, once `facts` has waited for the model. `tokens` grow as they are answered."""

    @property
    def tokens(self) -> TokenCounts: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def facts(self) -> EngineFacts: ...

    def answers(self, pieces: Iterable[Piece]) -> Iterator[Answered]: ...


class LocalEngine:
    """The model in this process. Raises what `load_model` and `Scorer` raise."""

    def __init__(self, job: EngineJob, report: Report) -> None:
        from harness.evaluation.scorer import Scorer
        from harness.models.loading import load_model

        loaded = load_model(job.checkpoint, job.device, job.dtype)
        self._scorer = Scorer(loaded, token_budget=job.token_budget, report=report)
        self._facts = EngineFacts(
            dtype=loaded.dtype,
            dtype_reason=loaded.dtype_reason,
            load_seconds=loaded.load_seconds,
            quantization_note=loaded.quantization_note,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    @property
    def tokens(self) -> TokenCounts:
        work = self._scorer.work
        return TokenCounts(work.requested_tokens, work.computed_tokens, work.padding_tokens, self._scorer.operations)

    def facts(self) -> EngineFacts:
        return self._facts

    def answers(self, pieces: Iterable[Piece]) -> Iterator[Answered]:
        for piece in pieces:
            yield from answer_piece(self._scorer, piece)


def split_job(job: EngineJob, processes: int) -> tuple[EngineJob, ...]:
    """One job for each of the `processes` of each device: a GPU by its UUID, a share of the CPU's threads."""
    device = job.device
    if device.kind is DeviceKind.CPU:
        threads = max(1, (device.threads or available_threads()) // processes)
        parts = [device.model_copy(update={"threads": threads if processes > 1 else device.threads})]
    else:
        parts = [device.model_copy(update={"uuids": (uuid,)}) for uuid in device.uuids] or [device]
    return tuple(
        EngineJob(job.checkpoint, part, job.dtype, job.token_budget) for part in parts for _ in range(processes)
    )


def open_engine(job: EngineJob, processes: int, report: Report) -> Engine:
    """Load the model for `job`, with `processes` on each of its devices."""
    jobs = split_job(job, processes)
    if len(jobs) == 1:
        return LocalEngine(jobs[0], report)
    from harness.evaluation.parallel import ParallelEngine

    return ParallelEngine(jobs, report)
