"""A whole run: make the images ready, take its record, see what is already known, check the space, run the rest."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.contract import Sha256
from orchestrator.host.devices import ChosenDevice
from orchestrator.host.faults import explained
from orchestrator.host.scratch import sweep_all_scratch
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import KeepCheckpoints, Manifest
from orchestrator.manifest.data_sources import NO_DATA_FOLDER
from orchestrator.run.facts import resolve_facts
from orchestrator.run.keeping import DROPPED
from orchestrator.run.known import Known, look_up
from orchestrator.run.progress import Display
from orchestrator.run.scheduling import Executor
from orchestrator.run.sizes import stated_bytes
from orchestrator.run.space import check_space, disk_need
from orchestrator.run.work import RecordInProgress, StageWork
from orchestrator.run.workshop import Workshop
from orchestrator.runtime.base import Runtime
from orchestrator.stages import Plan, Stage
from orchestrator.store import RunRecord, StageRecord, Store
from orchestrator.store.cleaning import sweep_attempts
from orchestrator.store.history import take_run


@dataclass(frozen=True)
class Setup:
    """What a run stands on, chosen before it starts. `data` is the folder that data sets come from first, if any.

    `hub_bytes` has the size of the weights of models, by name, of which the hub was asked. Where it `waits_for_room`, a
    full disk pauses the run.
    """

    manifest: Manifest
    plan: Plan
    catalog: ImageCatalog
    store: Store
    runtime: Runtime
    device: ChosenDevice
    decisions: tuple[str, ...]
    data: Path | None = None
    hub_bytes: Mapping[str, int] = field(default_factory=dict)
    waits_for_room: bool = False

    @property
    def weights_bytes(self) -> dict[str, int]:
        """The size of each model's weights that the manifest or the hub states."""
        return {**self.hub_bytes, **stated_bytes(self.manifest)}


@dataclass(frozen=True)
class Series:
    """Which runs are runs of the same: their name, and a digest of what is asked."""

    name: str
    digest: Sha256


class Run:
    """One run. The same request with the same facts goes on with an unfinished run; else its record is a new one.

    `series` tells what is asked apart from a run of the whole manifest, which it is by default.
    """

    def __init__(self, setup: Setup, display: Display, cancel: threading.Event, series: Series | None = None) -> None:
        self._setup = setup
        self._series = series or Series(setup.manifest.name, setup.manifest.digest)
        self._display = display
        self._announced: str | None = None
        self._workshop = Workshop(
            store=setup.store,
            catalog=setup.catalog,
            runtime=setup.runtime,
            device_model=setup.device.model,
            run=self._series.name,
            cancel=cancel,
            note=display.note,
        )

    def perform(
        self,
        executor: Executor,
        part: Sequence[Stage] | None = None,
        decisions: tuple[str, ...] = (),
        *,
        ends: bool = True,
    ) -> RunRecord:
        """Run to the end, all stages or a `part` of them, of which every checkpoint is kept for another part.

        A record that does not end is gone on with by the next call.

        `decisions` are those that were made since the run began, with their reasons.

        Raises:
            Interrupted: the run was stopped; its record says so and is saved.
            HostFault: the disk is read-only, or the store is gone, or the disk is full and the setup does not wait for
                room; the record says so where it can be written.
            OrchestratorError: an image cannot be made ready, the disk has no room, or the store cannot be written.
        """
        setup, workshop = self._setup, self._workshop
        with explained(), setup.store.in_use():
            self._sweep()
            images = {f"{one.image} on {one.device.kind.value}": workshop.identity(one) for one in setup.plan.stages}
            data = NO_DATA_FOLDER if setup.data is None else str(setup.data)
            facts = resolve_facts(self._series.digest, setup.plan, setup.runtime.name.value, setup.device, data, images)
            stages = setup.plan.stages if part is None else tuple(part)
            with take_run(setup.store, self._series.name, facts) as taken:
                workshop.run = taken.name
                known = self.look_up(stages, workshop.is_whole)
                workshop.refused = known.refused
                keep = setup.manifest.keep_checkpoints if part is None else KeepCheckpoints.ALL
                workshop.dropped = DROPPED[keep]
                need = disk_need(setup.plan.stages, known, setup.weights_bytes, setup.catalog, keep)
                space = check_space(setup.store.root, need)
                record = RecordInProgress(
                    setup.manifest, setup.plan, stages, facts, taken, (*setup.decisions, *decisions, *space)
                )
                self._announce(record, known)
                work = StageWork(record, known, workshop, self._display, keep, need.footprints, setup.waits_for_room)
                return work.perform(executor, ends=ends)

    @property
    def name(self) -> str:
        """The record's, from when it is taken on."""
        return self._workshop.run

    def look_up(self, stages: Sequence[Stage], is_whole: Callable[[StageRecord], bool] | None = None) -> Known:
        """What is known of these stages; see `known.look_up`."""
        return look_up(stages, self._setup.store, self._workshop.key_of, is_whole)

    def _sweep(self) -> None:
        sweep_all_scratch()
        swept = (*self._setup.runtime.sweep(), *sweep_attempts(self._setup.store))
        if swept:
            self._display.note(f"removed what {len(swept)} interrupted stage(s) had left behind")

    def _announce(self, record: RecordInProgress, known: Known) -> None:
        if self._announced != record.name:
            self._display.note(record.announcement)
            self._announced = record.name
        for name, loss in known.unreadable.items():
            self._display.note(f"{name} is made again: {loss.message}")
