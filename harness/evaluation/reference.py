"""The reference engine: a model and its scorer, in this process or in several others."""

from collections.abc import Iterable, Iterator
from typing import Self

from harness.contract import DeviceKind
from harness.environment import available_threads
from harness.evaluation.engine import Engine, EngineFacts, EngineJob, Report, TokenCounts
from harness.evaluation.pieces import Answered, Piece, answer_piece


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
