"""One evaluate request from beginning to end: data, items, model, outcomes, result. See docs/evaluation.md."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checkpoint import open_checkpoint
from harness.contract import (
    CheckpointDescriptor,
    DatasetDescriptor,
    Device,
    Dtype,
    EvaluateRequest,
    EvaluateResult,
    EvaluationCost,
    Frozen,
    Operation,
    digest_of,
    work_source,
)
from harness.contract.items import NOT_FINITE
from harness.contract.tasks import Task
from harness.environment import describe_environment
from harness.evaluation.data import Rows, open_data
from harness.evaluation.deployed import DeployedEngine, ScoringBackend, find_scoring_backend, longest_request
from harness.evaluation.engine import Engine, EngineFacts, EngineJob, TokenCounts
from harness.evaluation.outcomes import write_items
from harness.evaluation.pieces import PieceSize, cut_pieces
from harness.evaluation.reference import open_engine
from harness.evaluation.resuming import KeptOutcomes, discard
from harness.evaluation.tasks import find_task
from harness.inputs import input_folder
from harness.operations import describe_image
from harness.reporter import Reporter

if TYPE_CHECKING:
    from harness.evaluation.definitions import ModelFacts, Prepared


@dataclass(frozen=True)
class _Inputs:
    """What is evaluated on what; the folders' contents are those of the descriptors.

    `backend` answers in place of the reference scorer, where it is not None.
    """

    task: Task
    data: DatasetDescriptor
    rows: Rows
    folder: Path
    checkpoint: CheckpointDescriptor
    backend: ScoringBackend | None


@dataclass(frozen=True)
class _Attempt:
    """What this attempt came to. `chosen` are the numbers of the items that were asked for, `items` their outcomes, of
    which `resumed_items` are an earlier one's."""

    prepared: "Prepared[Any]"
    chosen: range | tuple[int, ...]
    loaded: EngineFacts
    items: tuple[Frozen, ...]
    resumed_items: int
    tokens: TokenCounts
    prepare_seconds: float
    score_seconds: float


class _Remarks:
    """Automatic choices: each a log event as it is made, and once among the result's notes."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._texts: dict[str, None] = {}

    def __call__(self, text: str) -> None:
        if text not in self._texts:
            self._texts[text] = None
            self._reporter.log(text)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._texts)


def evaluate(request: EvaluateRequest, reporter: Reporter) -> EvaluateResult:
    """See `harness.evaluation.run`."""
    begin = time.monotonic()
    output = Path(request.output)
    inputs = _open_inputs(request)
    remarks = _Remarks(reporter)
    attempt = _attempt(request, inputs, remarks, reporter)
    prepared, loaded = attempt.prepared, attempt.loaded
    summary, asked = prepared.summarise(attempt.items), request.parameters.slice
    cost = _bounded(_cost(attempt, inputs.checkpoint.parameter_count), request.device, loaded.dtype)
    items_file = write_items(attempt.items, output)
    if asked is None:
        discard(output)
    return EvaluateResult(
        task=inputs.task.name,
        engine=request.parameters.engine,
        protocol=request.parameters.protocol_of(inputs.task.protocol),
        metric=inputs.task.metric,
        metrics=summary.metrics,
        items=summary.scored,
        items_available=prepared.available,
        drawn_from=None if asked is None else len(prepared),
        excluded=summary.excluded if asked is None else _of_scoring(summary.excluded),
        truncated_items=len(set(prepared.truncated).intersection(attempt.chosen)),
        items_file=items_file,
        dataset_origin=inputs.data.origin,
        details=prepared.details,
        dtype=loaded.dtype,
        dtype_reason=loaded.dtype_reason,
        wall_seconds=time.monotonic() - begin,
        cost=cost,
        notes=(*filter(None, [loaded.quantization_note]), *loaded.notes, *prepared.notes, *remarks.notes),
    )


def _attempt(request: EvaluateRequest, inputs: _Inputs, remarks: _Remarks, reporter: Reporter) -> _Attempt:
    """Prepare the task beside loading the model, then score what no earlier attempt has scored."""
    parameters = request.parameters
    facts = _model_facts(inputs)
    job = EngineJob(inputs.folder, request.device, parameters.dtype, parameters.token_budget)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare") as beside:
        preparing = beside.submit(_prepare, inputs, facts, parameters.limit)
        work = Path(request.output)
        with _open(inputs.backend, job, parameters.processes, facts, preparing, remarks, work) as engine:
            prepared, prepare_seconds = preparing.result()
            loaded = engine.facts()
            chosen = range(len(prepared)) if parameters.slice is None else parameters.slice.numbers(len(prepared))
            size = PieceSize.suiting(
                request.device.kind,
                inputs.checkpoint.parameter_count,
                items=len(chosen),
                processes=loaded.processes,
            )
            fingerprint = _fingerprint(request, inputs)
            with KeptOutcomes(Path(request.output), fingerprint, prepared.item_type, len(prepared)) as kept:
                begin = time.monotonic()
                resumed = _score(prepared, chosen, engine, kept, size, reporter)
                score_seconds = time.monotonic() - begin
            tokens = engine.tokens
    items = tuple(kept.items[number] for number in chosen)
    return _Attempt(prepared, chosen, loaded, items, resumed, tokens, prepare_seconds, score_seconds)


def _open(
    backend: ScoringBackend | None,
    job: EngineJob,
    processes: int,
    facts: "ModelFacts",
    preparing: "Future[tuple[Prepared[Any], float]]",
    report: Callable[[str], None],
    work: Path,
) -> Engine:
    """The reference loads while the items are prepared; a backend reserves memory for the longest of them."""
    if backend is None:
        return open_engine(job, processes, report)
    prepared, _ = preparing.result()
    return DeployedEngine(backend, job, longest_request(prepared, facts.context_length), work)


def _open_inputs(request: EvaluateRequest) -> _Inputs:
    backend = find_scoring_backend(request.parameters.engine, request.parameters.processes)
    task = find_task(request.parameters.task)
    data, rows = open_data(input_folder(request, "dataset"), task)
    folder = input_folder(request, "checkpoint")
    return _Inputs(task, data, rows, folder, open_checkpoint(folder), backend)


def _model_facts(inputs: _Inputs) -> "ModelFacts":
    """What preparing needs to know. The context is as long as the engine makes use of."""
    from harness.evaluation.definitions import ModelFacts
    from harness.models.loading import load_config, load_tokenizer

    config = load_config(inputs.folder)
    facts = ModelFacts.of(load_tokenizer(inputs.folder), config)
    lost_positions = 0 if inputs.backend is None else inputs.backend.scoring.lost_positions
    return replace(facts, context_length=facts.context_length - lost_positions)


def _prepare(inputs: _Inputs, facts: "ModelFacts", limit: int | None) -> tuple["Prepared[Any]", float]:
    """The task's items, and the seconds that preparing them took."""
    from harness.evaluation.definitions import prepare

    begin = time.monotonic()
    prepared = prepare(inputs.task, inputs.rows, facts, limit=limit)
    return prepared, time.monotonic() - begin


def _fingerprint(request: EvaluateRequest, inputs: _Inputs) -> str:
    """Equal for two attempts whose outcomes may stand in one result: which items are asked for has no say in them."""
    environment = describe_environment(request)
    return digest_of(
        {
            "parameters": request.parameters.model_dump(mode="json", exclude={"processes", "slice"}),
            "device": request.device.kind.value,
            "checkpoint": inputs.checkpoint.digest,
            "data": inputs.data.digest,
            "source": work_source(describe_image(), Operation.EVALUATE, request.parameters),
            "python": environment.python,
            "libraries": environment.libraries,
        }
    )


def _score(
    prepared: "Prepared[Any]",
    chosen: Sequence[int],
    engine: Engine,
    kept: KeptOutcomes[Any],
    size: PieceSize,
    reporter: Reporter,
) -> int:
    """Score what is left of the items `chosen`, and keep each outcome as soon as it is known.

    Returns how many an earlier attempt had scored.
    """
    total, resumed = len(chosen), len(kept.items.keys() & set(chosen))
    beside = len(kept.items) - resumed
    if resumed:
        reporter.log(f"{resumed} of {total} {prepared.unit} were scored by an earlier attempt")
    reporter.progress(resumed, total, prepared.unit)
    for answered in engine.answers(cut_pieces(prepared, size, among=chosen, done=frozenset(kept.items))):
        for index, answers in answered.items:
            kept.add(index, prepared.judge(index, answers))
        if answered.ends_piece:
            kept.write()
        reporter.progress(len(kept.items) - beside, total, prepared.unit)
    return resumed


def _of_scoring(excluded: Mapping[str, int]) -> dict[str, int]:
    """Without what cannot be scored by any model, of which no slice is drawn."""
    return {reason: count for reason, count in excluded.items() if reason == NOT_FINITE}


def _bounded(cost: EvaluationCost, device: Device, dtype: Dtype) -> EvaluationCost:
    """With the rate of its products held against the devices', measured on the first of them now that all are idle.

    A CPU computes for others meanwhile, so that what it comes to now may be less than what it came to before.

    Raises:
        Implausible: it is beyond what they can do.
    """
    import torch

    from harness.models.loading import TORCH_DTYPES, select_device
    from harness.physics import OPERATIONS_PER_SECOND, hold, product_rate, uninterrupted_product_rate

    rate = cost.model_operations_per_second
    if not rate:
        return cost
    count = max(1, len(device.uuids))
    where = select_device(device) if count == 1 else torch.device("cuda", 0)
    dtypes = dict.fromkeys([TORCH_DTYPES[dtype], *([torch.float32] if where.type == "cpu" else [])])
    measures = [partial(_times, count, partial(product_rate, where, one)) for one in dtypes]
    if where.type == "cpu":
        measures += [partial(uninterrupted_product_rate, one) for one in dtypes]
    bound = hold(f"multiplying while scoring on {count} device(s)", rate, OPERATIONS_PER_SECOND, measures)
    return cost.model_copy(update={"bounds": (bound,)})


def _times(count: int, measure: Callable[[], float]) -> float:
    return count * measure()


def _cost(attempt: _Attempt, parameter_count: int) -> EvaluationCost:
    scored_items = len(attempt.items) - attempt.resumed_items
    seconds, tokens = attempt.score_seconds, attempt.tokens
    timed = scored_items > 0 and seconds > 0
    return EvaluationCost(
        prepare_seconds=attempt.prepare_seconds,
        load_seconds=attempt.loaded.load_seconds,
        score_seconds=seconds,
        scored_items=scored_items,
        resumed_items=attempt.resumed_items,
        asked_tokens=tokens.asked,
        computed_tokens=tokens.computed,
        padding_tokens=tokens.padding,
        items_per_second=scored_items / seconds if timed else None,
        tokens_per_second=tokens.computed / seconds if timed else None,
        model_operations=tokens.operations,
        model_operations_per_second=tokens.operations / seconds if timed and tokens.operations is not None else None,
        parameter_count=parameter_count,
        processes=attempt.loaded.processes,
    )
