"""What every stage of a run shares: store, images made ready, what is verified, what goes after its last reader."""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from harness.contract import DeviceKind, Operation, Sha256
from orchestrator.errors import Interrupted
from orchestrator.images.catalog import ImageCatalog
from orchestrator.run.keys import key_material, stage_key
from orchestrator.runtime.base import Runtime
from orchestrator.stages import ImageIdentity, Stage
from orchestrator.store import StageRecord, Store, Unreadable
from orchestrator.store.verifying import Verifier


@dataclass
class Workshop:
    """What every stage of a run shares. Safe to use from several threads.

    `refused` are results, by their keys, that stand by themselves and not beside others. `dropped` are the operations
    whose artifacts go after their last readers. `is_busy`: the machine disturbed the last measurement that was taken
    once more, too, so that a repeat is in vain.
    """

    store: Store
    catalog: ImageCatalog
    runtime: Runtime
    device_model: str
    run: str
    cancel: threading.Event
    note: Callable[[str], None]
    refused: Mapping[Sha256, StageRecord] = field(default_factory=dict)
    dropped: Collection[Operation] = ()
    is_busy: bool = False
    verifier: Verifier = field(init=False)
    _identities: dict[tuple[str, DeviceKind], ImageIdentity] = field(default_factory=dict)
    _preparing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.verifier = Verifier(self.store, self.cancel, self.note)

    def find(self, key: Sha256) -> StageRecord | None:
        """The finished stage with this key, with its artifact held against its digests; None where it has to be run."""
        record = self.store.find(key)
        if record is not None and record == self.refused.get(key):
            return None
        return record if record is not None and self.is_whole(record) else None

    def read(self, key: Sha256) -> StageRecord | None:
        """The result with this key, its artifact at hand or not; None where none can be read or may be used."""
        try:
            record = self.store.read(key)
        except Unreadable:
            return None
        return None if record == self.refused.get(key) else record

    def is_whole(self, record: StageRecord) -> bool:
        """Whether what the stage made for others is there, held against its digests; nobody drops it from then on."""
        if record.provenance.artifact is not None:
            self.store.artifacts.want(record.provenance.artifact)
        return self.verifier.is_whole(record)

    def identity(self, stage: Stage) -> ImageIdentity:
        """Make the stage's image ready, once a run."""
        with self._preparing:
            if self.cancel.is_set():
                raise Interrupted("stopped before an image was ready")
            slot = (stage.image, stage.device.kind)
            if slot not in self._identities:
                image = self.catalog.images[stage.image]
                self._identities[slot] = self.runtime.prepare(image, stage.device.kind, self.note)
            return self._identities[slot]

    def key(self, stage: Stage, inputs: dict[str, Sha256]) -> tuple[Sha256, dict[str, object]]:
        """The stage's key, given the digests of the artifacts that it reads."""
        image = self.catalog.images[stage.image].description
        material = key_material(stage, image, self.identity(stage), inputs, self.device_model)
        return stage_key(material), material

    def key_of(self, stage: Stage, inputs: dict[str, Sha256]) -> Sha256:
        """The key alone."""
        return self.key(stage, inputs)[0]
