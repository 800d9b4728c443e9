"""The tasks by name: a YAML file each, beside this one. `harness.contract.tasks` has their models."""

from harness.contract import Reason, did_you_mean
from harness.contract.tasks import Task, load_task, task_names
from harness.errors import Unsupported


def find_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        Unsupported: there is none.
    """
    tasks = task_names()
    if name in tasks:
        return load_task(name)
    raise Unsupported(
        Reason.TASK,
        f"there is no task {name!r}{did_you_mean(name, tasks)}",
        hint=f"the tasks are: {', '.join(tasks)}",
    )
