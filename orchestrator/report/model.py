"""Everything that a report tells about a run. Free of presentation, so that every figure can be derived again."""

from typing import Any, Literal

from pydantic import AwareDatetime, NonNegativeFloat, PositiveInt

from harness.contract import Frozen
from orchestrator.decide.answer import Decision
from orchestrator.evidence.value import Variant
from orchestrator.host.load import MachineLoad
from orchestrator.score.agreement import TaskAgreement
from orchestrator.score.categories import CategoryScore
from orchestrator.score.claims import RunClaims
from orchestrator.score.differing import TaskDifferences
from orchestrator.score.overall import Score
from orchestrator.score.scores import RunScores
from orchestrator.store import StageStatus
from orchestrator.tracks import Track


class ModelEntry(Frozen):
    """`digest` is the checkpoint's content address; None where it was never fetched."""

    name: str
    source: str
    family: str | None = None
    architecture: str | None = None
    parameter_count: PositiveInt | None = None
    digest: str | None = None


class VariantEntry(Frozen):
    """A compressed variant of the run. `calibration` is one line; `notes` are what a reader must know to judge it."""

    variant: Variant
    image: str | None = None
    calibration: str | None = None
    notes: tuple[str, ...] = ()


class StageEntry(Frozen):
    """`status` is the run record's; of a `cached` stage `wall_seconds` is what it took when it was run. `notes` are the
    worker's remarks on its result. `load` is the machine's while the worker ran; `repeated`: after a measurement that
    was disturbed."""

    name: str
    operation: str
    status: StageStatus
    key: str | None = None
    wall_seconds: NonNegativeFloat | None = None
    load: MachineLoad | None = None
    repeated: bool = False
    message: str = ""
    hint: str = ""
    notes: tuple[str, ...] = ()


class ImageEntry(Frozen):
    """`identity` is the image's digest, or its lock's in the process runtime.

    `libraries` are the versions of what the image is built for: what its requirements and its backends are called. The
    results of its stages hold all that is installed; so does this of an image whose description is not at hand.
    """

    name: str
    identity: str
    libraries: dict[str, str] = {}


class Provenance(Frozen):
    """`data_origins` maps a data set to where its rows came from. `notes` are choices made automatically, with why."""

    harness_digest: str
    manifest_digest: str | None = None
    version: str | None = None
    commit: str | None = None
    device_model: str
    driver: str | None = None
    images: tuple[ImageEntry, ...] = ()
    data_origins: dict[str, str] = {}
    notes: tuple[str, ...] = ()


class RunReport(Frozen):
    """One run. `scoring` is what `orchestrator score` gives: every value, and the scores of dense and every compressed
    variant in every track that the manifest asked for; a track that it did not ask for has no score. `agreement`
    compares the engines of evaluations, `categories` are the paper's Table 5, `claims` what the paper concludes, judged
    on this run, `decision` what to use by the manifest's limits; it is absent where these cannot be asked of the run.
    `differing` quotes items that compressed models pick otherwise than dense.
    `results_path` is where requests, results and raw items lie, `manifest` what was asked for. Fields are only ever
    added."""

    schema_version: Literal[2] = 2
    created: AwareDatetime
    runtime: str
    device: str
    models: tuple[ModelEntry, ...]
    variants: tuple[VariantEntry, ...]
    backends: tuple[str, ...] = ()
    scoring: RunScores
    agreement: tuple[TaskAgreement, ...] = ()
    categories: tuple[CategoryScore, ...] = ()
    claims: RunClaims | None = None
    decision: Decision | None = None
    decision_absent: str | None = None
    differing: tuple[TaskDifferences, ...] = ()
    stages: tuple[StageEntry, ...]
    provenance: Provenance
    results_path: str
    manifest: dict[str, Any] = {}

    @property
    def run_id(self) -> str:
        return self.scoring.run

    @property
    def scores(self) -> tuple[Score, ...]:
        return self.scoring.scores

    @property
    def scored_variants(self) -> tuple[Variant, ...]:
        """In the order of `scores`."""
        return tuple(dict.fromkeys(score.variant for score in self.scores))

    @property
    def tracks(self) -> tuple[Track, ...]:
        return tuple(sorted({score.track for score in self.scores}))
