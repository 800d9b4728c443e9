"""The tasks by name: a YAML file each, beside this one. `harness.contract.tasks` has their models."""

from harness.contract import Reason, did_you_mean
from harness.contract.tasks import Task, load_tasks
from harness.errors import Unsupported


def find_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        Unsupported: there is none.
    """
    tasks = load_tasks()
    if name in tasks:
        return tasks[name]
    raise Unsupported(
        Reason.TASK,
        f"there is no task {name!r}{did_you_mean(name, tasks)}",
        hint=f"the tasks are: {', '.join(tasks)}",
    )
