"""One `states` request: the dense model's last hidden states over a text, kept for what is made of it.

States are kept in the dtype that they were computed in. Rounding them further would give the dense model a divergence
from itself, and so a floor below which nothing could be told.
"""

import shutil
import time
from pathlib import Path

from harness.checkpoint import open_checkpoint, publish
from harness.contract import ARTIFACT_NAME, FileEntry, Reason, StatesDescriptor, StatesRequest, StatesResult
from harness.contract.tasks import PerplexityTask, Task, WordPerplexityTask
from harness.errors import Unsupported
from harness.evaluation.data import open_data
from harness.evaluation.tasks import find_task
from harness.inputs import input_folder
from harness.reporter import Reporter


def run(request: StatesRequest, reporter: Reporter) -> StatesResult:
    """Keep the states of the input `checkpoint` over the task's text, from the input `dataset`.

    Raises:
        Unsupported: the task is unknown or no text, or the model cannot do it.
        MissingData: the data set has too little text.
        BadRequest: an input is missing or not usable.
    """
    from harness.evaluation.definitions import ModelFacts, prepare
    from harness.fidelity.passes import Passes
    from harness.fidelity.states import StatesWriter
    from harness.models.loading import load_model

    parameters = request.parameters
    task = find_task(parameters.task)
    _refuse_other_than_text(task)
    data, rows = open_data(input_folder(request, "dataset"), task)
    folder = input_folder(request, "checkpoint")
    checkpoint = open_checkpoint(folder)
    loaded = load_model(folder, request.device, parameters.dtype)
    prepared = prepare(task, rows, ModelFacts.of(loaded.tokenizer, loaded.model.config), limit=parameters.limit)
    passes = Passes(loaded, parameters.token_budget)
    by_item = [list(prepared.requests(index)) for index in range(len(prepared))]
    requests = [one for of_item in by_item for one in of_item]
    items = [index for index, of_item in enumerate(by_item) for _ in of_item]
    output = Path(request.output)
    staging = output / ".staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    writer = StatesWriter(staging)
    begin = time.monotonic()
    for read in passes.read(requests):
        writer.add(read.number, read.states)
        reporter.progress(items[read.number] + 1, len(prepared), prepared.unit)
    score_seconds = time.monotonic() - begin
    head = passes.forward.head
    writer.finish(requests, items, head)

    def describe(files: dict[str, FileEntry]) -> StatesDescriptor:
        return StatesDescriptor(
            files=files,
            checkpoint=checkpoint.digest,
            dataset=data.digest,
            task=task.name,
            protocol=task.protocol,
            items=len(prepared),
            items_available=prepared.available,
            requests=len(requests),
            tokens=sum(len(one.continuation) for one in requests),
            hidden_size=head.weight.shape[1],
            vocabulary_size=head.weight.shape[0],
            dtype=loaded.dtype,
            batch_tokens=passes.batch_tokens,
        )

    return StatesResult(
        artifact=publish(staging, output / ARTIFACT_NAME, describe),
        dtype=loaded.dtype,
        dtype_reason=loaded.dtype_reason,
        load_seconds=loaded.load_seconds,
        score_seconds=score_seconds,
        notes=(f"batches of at most {passes.batch_tokens} tokens: {passes.reason}", *prepared.notes),
    )


def _refuse_other_than_text(task: Task) -> None:
    if not isinstance(task, PerplexityTask | WordPerplexityTask):
        raise Unsupported(
            Reason.TASK,
            f"{task.name} is no text: its divergence by token is not defined here",
            hint="name a task of perplexity; of a choice task, flips are counted from its items",
        )
