"""Stages that fetch: a model, the data of a task, text to calibrate on, prompts."""

from dataclasses import dataclass, replace
from pathlib import Path

from harness.contract import (
    DatasetSource,
    FetchParameters,
    MethodDescription,
    Operation,
    TaskDescription,
    TextFile,
)
from orchestrator.images.image import Image
from orchestrator.manifest import ModelEntry
from orchestrator.manifest.data_sources import dataset_source, is_text_file, text_file
from orchestrator.manifest.sources import ModelSource
from orchestrator.plan.data import DataSources
from orchestrator.plan.support import Refused
from orchestrator.stages import HostFolder, Limits, Stage, Subject


@dataclass(frozen=True)
class Fetches:
    """`data` is the local data folder, None where there is none."""

    image: Image
    limits: Limits
    data: Path | None
    sources: DataSources

    def model(self, model: ModelEntry, parsed: ModelSource, subject: Subject) -> Stage:
        return self._stage(
            f"fetch/{model.name}", FetchParameters(source=parsed.source, dtype=model.dtype), parsed.folder, subject
        )

    def task_data(self, task: TaskDescription) -> Stage | Refused:
        """The data set that a task reads, or why it cannot be had from here.

        Raises:
            BadManifest: no source has a split that the task needs.
        """
        source = dataset_source(task.dataset, self.sources.known, self.data, needed=task.splits)
        return self.sources.lack(source, f"task {task.name!r}") or self._dataset(source)

    def calibration(self, method: MethodDescription, dataset: str, substitute: str | None) -> Stage | Refused:
        """A data set to calibrate or train on, or the text file that `file:path` names; or why it cannot be had here.

        Raises:
            BadManifest: it is unknown or missing, holds no text, or no source has the split to draw from.
        """
        if is_text_file(dataset):
            return self.text(dataset)
        known = self.sources.known
        split = known[dataset].calibration_split if dataset in known else None
        source = dataset_source(dataset, known, self.data, substitute, needed=(split,) if split else ())
        return self.sources.lack_of_text(source, method.name) or self._dataset(source)

    def text(self, name: str) -> Stage:
        """The text file that `file:path` names.

        Raises:
            BadManifest: it is missing, or none that holds text.
        """
        text = text_file(name)
        return self._rows(f"{text.source.file}-{text.source.sha256[:8]}", text.source, text.folder)

    def with_splits_of(self, stage: Stage, before: Stage) -> Stage | None:
        """One stage that fetches the splits of two of the same id; `stage` under another id where no source has both's.

        None where they do not fetch one data set.
        """
        mine, theirs = (_dataset_of(one) for one in (stage, before))
        if mine is None or theirs is None:
            return None
        needed = tuple({*mine.splits, *theirs.splits})
        both = dataset_source(mine.name, self.sources.known, self.data, mine.substitute, needed)
        if self.sources.has(both):
            return self._dataset(both)
        return replace(stage, id="-".join((stage.id, *mine.splits)))

    def _dataset(self, source: DatasetSource) -> Stage:
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


def _dataset_of(stage: Stage) -> DatasetSource | None:
    parameters = stage.parameters
    source = parameters.source if isinstance(parameters, FetchParameters) else None
    return source if isinstance(source, DatasetSource) else None
