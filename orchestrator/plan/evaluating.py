"""Evaluations of one checkpoint by one engine: a stage a task."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.contract import (
    REFERENCE_ENGINE,
    BackendDescription,
    EvaluateParameters,
    EvaluationSizes,
    FidelityParameters,
    Operation,
    Reason,
    StatesParameters,
    TaskDescription,
    unknown,
)
from orchestrator.errors import BadManifest, located
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.manifest import EvaluateEntry
from orchestrator.plan.support import Refused
from orchestrator.stages import Stage, StageOutput, Subject


@dataclass(frozen=True)
class Engine:
    """A backend that evaluates, with the image that holds it."""

    image: Image
    backend: BackendDescription


def task_stages(
    common: Stage,
    checkpoint: str,
    entry: EvaluateEntry,
    catalog: ImageCatalog,
    fetch: Callable[[TaskDescription], str | None],
    left_out: Callable[[str], bool],
    engine: Engine | None = None,
    *,
    architecture: str | None = None,
) -> Iterator[Stage]:
    """By the reference in the task's own image, or by `engine` in that one's.

    `fetch` plans that of a task's data; there is no stage of a task whose data it does not get, nor of one `left_out`.

    `common` has as its `id` the label of what is evaluated. `architecture` is the dense model's, so that all that is
    made of it is evaluated on the same tasks.

    Raises:
        BadManifest: a task is unknown.
    """
    sizes = {name: getattr(entry, name) for name in EvaluationSizes.model_fields}
    if engine:
        sizes["processes"] = 1
    for index, task in enumerate(entry.tasks):
        with located("evaluate", "tasks", index):
            if task not in catalog.tasks:
                raise BadManifest(unknown("task", task, catalog.tasks), hint="`orchestrator images list` has all")
            if left_out(task):
                continue
            taken = task_for(architecture, task, entry.tasks, catalog)
            image, description = catalog.tasks[taken]
            dataset = fetch(description)
        if dataset is None:
            continue
        yield replace(
            common,
            id=f"evaluate/{common.id}/{taken}" + (f"/{engine.backend.name}" if engine else ""),
            image=engine.image.name if engine else image.name,
            operation=Operation.EVALUATE,
            parameters=EvaluateParameters(
                task=taken,
                engine=engine.backend.name if engine else REFERENCE_ENGINE,
                limit=entry.limit_of(task),
                **sizes,
            ),
            inputs={"checkpoint": StageOutput(checkpoint), "dataset": StageOutput(dataset)},
        )


def fidelity_stages(
    common: Stage,
    dense: str,
    checkpoints: Sequence[tuple[Subject, str]],
    entry: EvaluateEntry,
    catalog: ImageCatalog,
    fetch: Callable[[TaskDescription], str | None],
    left_out: Callable[[Subject, str], bool],
    engine: Engine | None = None,
    *,
    architecture: str | None = None,
) -> Iterator[Stage]:
    """The dense model's states over each task that `fidelity` names, and each of `checkpoints` held against them.

    `common` is about the dense model, whose stage is `dense` and whose states are the reference's; `checkpoints`, each
    with its subject, are read by the reference or by `engine`. The states of a task that is `left_out` of all of them
    are not kept.

    Raises:
        BadManifest: a task is none of text.
    """
    for index, task in enumerate(entry.fidelity):
        with located("evaluate", "fidelity", index):
            taken = task_for(architecture, task, entry.tasks, catalog)
            image, description = catalog.tasks[taken]
            if description.higher_is_better:
                raise BadManifest(
                    f"{task} is a task of choices, and fidelity is measured over text",
                    hint="name a task of perplexity; flips of choices are counted without being asked for",
                )
            if Operation.STATES not in image.description.operations:
                raise BadManifest(f"image {image.name} does not keep the dense model's states", hint="leave it out")
        compared = [one for one in checkpoints if not left_out(one[0], task)]
        dataset = fetch(description) if compared else None
        if dataset is None:
            continue
        about = replace(common, image=image.name)
        limit = entry.limit_of(task)
        states = replace(
            about,
            id=f"states/{common.id}/{taken}",
            operation=Operation.STATES,
            parameters=StatesParameters(task=taken, limit=limit, token_budget=entry.token_budget, dtype=entry.dtype),
            inputs={"checkpoint": StageOutput(dense), "dataset": StageOutput(dataset)},
        )
        yield states
        for subject, checkpoint in compared:
            yield replace(
                about,
                id=f"fidelity/{subject.label}/{taken}" + (f"/{engine.backend.name}" if engine else ""),
                image=engine.image.name if engine else image.name,
                subject=subject,
                operation=Operation.FIDELITY,
                parameters=FidelityParameters(
                    task=taken,
                    engine=engine.backend.name if engine else REFERENCE_ENGINE,
                    limit=limit,
                    dtype=entry.dtype,
                ),
                inputs={"checkpoint": StageOutput(checkpoint), "states": StageOutput(states.id)},
            )


def task_for(architecture: str | None, asked: str, tasks: Sequence[str], catalog: ImageCatalog) -> str:
    """The task that stands for the one asked for, where a model of this architecture needs another one.

    A manifest that names that other one too has chosen for itself.
    """
    return next(
        (
            other.name
            for _, other in catalog.tasks.values()
            if other.stands_for == asked and architecture in other.architectures and other.name not in tasks
        ),
        asked,
    )


def scoring_refusal(backend: BackendDescription) -> Refused | None:
    """Why a backend cannot evaluate anything; None where it can."""
    if backend.scores:
        return None
    message = f"{backend.name} gives no log-likelihoods of a prompt's tokens here, so it cannot evaluate"
    return Refused(Reason.BACKEND, message, f"`scores` in the image.toml that offers {backend.name}")
