"""The tasks that this harness can evaluate: one YAML file each, in `tasks/`, checked against the models below."""

import difflib
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, PositiveInt, TypeAdapter

from harness.contract import Frozen, Reason
from harness.errors import Unsupported

TASKS_FOLDER = Path(__file__).parent / "tasks"


class ChoiceTask(Frozen):
    """Multiple choice as lm-eval defines it in the file `definition`, a path below its `tasks` folder."""

    kind: Literal["choice"]
    name: str
    protocol: str
    dataset: str
    split: str
    metric: Literal["acc", "acc_norm"]
    definition: str
    lm_eval_version: str


class PerplexityTask(Frozen):
    """Perplexity over segments of `sequence_length` tokens."""

    kind: Literal["perplexity"]
    name: str
    protocol: str
    dataset: str
    split: str
    metric: Literal["perplexity"]
    sequence_length: PositiveInt


Task = ChoiceTask | PerplexityTask
_TASK: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])


def load_tasks() -> dict[str, Task]:
    """Every task by its name."""
    tasks = (_TASK.validate_python(yaml.safe_load(path.read_text("utf-8"))) for path in _task_files())
    return {task.name: task for task in tasks}


def find_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        Unsupported: there is none.
    """
    tasks = load_tasks()
    if name in tasks:
        return tasks[name]
    nearest = difflib.get_close_matches(name, tasks, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise Unsupported(Reason.TASK, f"there is no task {name!r}", hint=f"{hint}The tasks are: {', '.join(tasks)}")


def _task_files() -> list[Path]:
    return sorted(TASKS_FOLDER.glob("*.yaml"))
