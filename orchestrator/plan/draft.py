"""A plan in the making: its stages so far, what was not planned and why, and what was chosen on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.contract import (
    Device,
    Operation,
)
from orchestrator.errors import BadManifest
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.manifest import Manifest
from orchestrator.manifest.excluding import Exclusions
from orchestrator.plan.data import DataSources
from orchestrator.plan.fetching import Fetches
from orchestrator.plan.rounds import in_rounds
from orchestrator.plan.support import Refused
from orchestrator.stages import Limits, NotPlanned, Stage, Subject
from orchestrator.tracks import parts_of_task


@dataclass
class Draft:
    """`chosen` has each decision with the labels that it is about."""

    manifest: Manifest
    catalog: ImageCatalog
    device: Device
    data: Path | None
    sources: DataSources
    exclusions: Exclusions
    stages: dict[str, Stage] = field(default_factory=dict)
    not_planned: list[NotPlanned] = field(default_factory=list)
    chosen: dict[str, list[str]] = field(default_factory=dict)

    @property
    def fetch_image(self) -> Image:
        return self.catalog.only(Operation.FETCH)

    @property
    def fetches(self) -> Fetches:
        return Fetches(self.fetch_image, self.limits, self.data, self.sources)

    @property
    def limits(self) -> Limits:
        memory_gib = self.manifest.limits.memory_gib
        return Limits(
            deadline_seconds=self.manifest.limits.deadline_seconds,
            memory_bytes=None if memory_gib is None else int(memory_gib * 2**30),
        )

    @property
    def decisions(self) -> tuple[str, ...]:
        return tuple(f"{why} ({', '.join(labels)})" if labels else why for why, labels in self.chosen.items())

    def add(self, stage: Stage) -> str:
        """Keep the stage once; of a data set all splits that are asked for. Two others of one id would be a fault."""
        if stage.timed and self.manifest.exclusive_host:
            stage = replace(stage, host_alone=True)
        before = self.stages.get(stage.id)
        if before is not None and before != stage:
            joined = self.fetches.with_splits_of(stage, before)
            if joined is None:
                raise BadManifest(
                    f"the manifest asks for two different stages {stage.id!r}", hint="give one of them another `name`"
                )
            stage = joined
        self.stages[stage.id] = stage
        return stage.id

    def add_in_rounds(self, stages: Sequence[Stage], rounds: int) -> None:
        """Keep the stages, which measure the same of one model's checkpoints, once a round."""
        for stage in in_rounds(stages, rounds, seed=self.manifest.digest):
            self.add(stage)

    def choose(self, why: str, label: str | None = None) -> None:
        """Note a decision, and whom it is about."""
        about = self.chosen.setdefault(why, [])
        if label is not None:
            about.append(label)

    def leaves_out_task(self, subject: Subject, task: str, engine: str) -> bool:
        tracks = [track.value for track, _ in parts_of_task(task, self.manifest.scoring)]
        return self.exclusions.leave_out_task(subject.model, subject.method, subject.setting, task, engine, tracks)

    def refuse(
        self,
        subject: Subject,
        by: str,
        why: Refused,
        operation: Operation,
        task: str | None = None,
        instead: tuple[str, ...] = (),
    ) -> None:
        self.not_planned.append(
            NotPlanned(
                subject=subject,
                backend=by,
                reason=why.reason,
                message=why.message,
                source=why.source,
                operation=operation,
                task=task,
                instead=instead,
            )
        )
