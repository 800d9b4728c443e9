"""The rows that a task reads, from the data set that a request gives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.checkpoint import open_dataset, read_rows
from harness.contract import DatasetDescriptor
from harness.contract.tasks import Task
from harness.errors import BadRequest, MissingData

Rows = Mapping[str, Sequence[dict[str, Any]]]
"""By split."""


def open_data(folder: Path, task: Task) -> tuple[DatasetDescriptor, Rows]:
    """The data set in `folder`, and its rows of the splits that `task` reads.

    Raises:
        BadRequest: it is another data set than the task's.
        MissingData: it has no rows of a split.
        BadCheckpoint: it is not what its descriptor says.
    """
    data = open_dataset(folder, verify=True)
    if data.name != task.dataset:
        raise BadRequest(
            f"task {task.name!r} needs the data set {task.dataset!r}, but the input is {data.name!r}",
            hint=f"give the data set {task.dataset!r} as the input 'dataset'",
        )
    return data, {split: _read_split(folder, data, split) for split in task.splits}


def _read_split(folder: Path, data: DatasetDescriptor, split: str) -> list[dict[str, Any]]:
    if not data.rows.get(split):
        has = ", ".join(name for name, count in data.rows.items() if count) or "none"
        raise MissingData(
            f"{data.name} from {data.origin} has no rows of the split {split!r}; it has: {has}",
            hint=f"fetch {data.name} from a source with its {split} split",
        )
    return read_rows(folder, split)
