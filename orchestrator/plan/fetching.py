"""Stages that fetch: a model, the data of a task, text to calibrate on, prompts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.contract import (
    DatasetDescription,
    DatasetSource,
    FetchParameters,
    MethodDescription,
    Operation,
    TaskDescription,
    TextFile,
)
from orchestrator.images.catalog import Image
from orchestrator.manifest import ModelEntry
from orchestrator.manifest.sources import ModelSource, dataset_source, is_text_file, text_file
from orchestrator.plan.data import check_calibration, check_splits
from orchestrator.stages import HostFolder, Limits, Stage, Subject


@dataclass(frozen=True)
class Fetches:
    """`data` is the local data folder, None where there is none. `note` is told which data cannot be had from here."""

    image: Image
    limits: Limits
    data: Path | None
    note: Callable[[str], object]

    def model(self, model: ModelEntry, parsed: ModelSource, subject: Subject) -> Stage:
        return self._stage(
            f"fetch/{model.name}", FetchParameters(source=parsed.source, dtype=model.dtype), parsed.folder, subject
        )

    def task_data(self, task: TaskDescription) -> Stage:
        """The data set that a task reads.

        Raises:
            BadManifest: no source has a split that the task needs.
        """
        source = dataset_source(task.dataset, self._datasets, self.data)
        return self._dataset(source, check_splits(source, self._datasets, task.splits, f"task {task.name!r}"))

    def calibration(self, method: MethodDescription, dataset: str, substitute: str | None) -> Stage:
        """A data set to calibrate or train on, or the text file that `file:path` names.

        Raises:
            BadManifest: it is unknown or missing, holds no text, or no source has the split to draw from.
        """
        if is_text_file(dataset):
            return self.text(dataset)
        source = dataset_source(dataset, self._datasets, self.data, substitute)
        return self._dataset(source, check_calibration(source, self._datasets, method.name))

    def text(self, name: str) -> Stage:
        """The text file that `file:path` names.

        Raises:
            BadManifest: it is missing, or none that holds text.
        """
        text = text_file(name)
        return self._rows(f"{text.source.file}-{text.source.sha256[:8]}", text.source, text.folder)

    @property
    def _datasets(self) -> dict[str, DatasetDescription]:
        return {dataset.name: dataset for dataset in self.image.description.datasets}

    def _dataset(self, source: DatasetSource, missing: str | None) -> Stage:
        if missing:
            self.note(missing)
        name = source.name if source.substitute is None else f"{source.name}-or-{source.substitute}"
        return self._rows(name, source, self.data if source.files else None)

    def _rows(self, name: str, source: DatasetSource | TextFile, folder: Path | None) -> Stage:
        return self._stage(f"data/{name}", FetchParameters(source=source), folder)

    def _stage(
        self, identity: str, parameters: FetchParameters, folder: Path | None, subject: Subject | None = None
    ) -> Stage:
        return Stage(
            id=identity,
            image=self.image.name,
            operation=Operation.FETCH,
            parameters=parameters,
            inputs={} if folder is None else {"source": HostFolder(folder)},
            limits=self.limits,
            subject=subject,
            depends_on_device=False,
        )
