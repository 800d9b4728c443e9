"""One evaluate request from beginning to end: task, data, model, scores, result."""

import time
from pathlib import Path
from typing import Any

from harness.checkpoint import open_dataset, read_rows
from harness.contract import DatasetDescriptor, EvaluateRequest, EvaluateResult
from harness.errors import BadRequest, MissingData
from harness.evaluation.catalog import ChoiceTask, Task, find_task
from harness.evaluation.outcomes import Scored, write_items
from harness.inputs import input_folder
from harness.models.loading import LoadedModel, load_model
from harness.reporter import Reporter


def evaluate(request: EvaluateRequest, reporter: Reporter) -> EvaluateResult:
    """See `harness.evaluation.run`."""
    begin = time.monotonic()
    parameters = request.parameters
    task = find_task(parameters.task)
    origin, rows = _read_data(task, input_folder(request, "dataset"))
    loaded = load_model(input_folder(request, "checkpoint"), request.device, parameters.dtype)
    scored = _score(task, rows, loaded, request, reporter)
    return EvaluateResult(
        task=task.name,
        protocol=task.protocol,
        metric=task.metric,
        metrics=scored.metrics,
        items=scored.scored,
        items_available=scored.available,
        excluded=scored.excluded,
        items_file=write_items(scored.items, Path(request.output)),
        dataset_origin=origin.origin,
        dtype=loaded.dtype,
        dtype_reason=loaded.dtype_reason,
        wall_seconds=time.monotonic() - begin,
        notes=() if loaded.quantization_note is None else (loaded.quantization_note,),
    )


def _read_data(task: Task, folder: Path) -> tuple[DatasetDescriptor, list[dict[str, Any]]]:
    descriptor = open_dataset(folder)
    if descriptor.name != task.dataset:
        raise BadRequest(
            f"task {task.name!r} needs the data set {task.dataset!r}, but the input is {descriptor.name!r}",
            hint=f"give the data set {task.dataset!r} as the input 'dataset'",
        )
    if not descriptor.rows.get(task.split):
        has = ", ".join(name for name, count in descriptor.rows.items() if count) or "none"
        raise MissingData(
            f"{descriptor.name} from {descriptor.origin} has no rows of the split {task.split!r}; it has: {has}",
            hint=f"fetch {descriptor.name} from a source with its {task.split} split",
        )
    return descriptor, read_rows(folder, task.split)


def _score(
    task: Task, rows: list[dict[str, Any]], loaded: LoadedModel, request: EvaluateRequest, reporter: Reporter
) -> Scored:
    limit, batch_size = request.parameters.limit, request.parameters.batch_size

    def done(finished: int, total: int) -> None:
        reporter.progress(finished, total, "item")

    if isinstance(task, ChoiceTask):
        from harness.evaluation.choice import score_choices

        return score_choices(task, rows, loaded, limit=limit, batch_size=batch_size, done=done)
    from harness.evaluation.perplexity import score_perplexity

    return score_perplexity(task, rows, loaded, limit=limit, batch_size=batch_size, done=done)
