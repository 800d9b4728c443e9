"""What a plan would do now: each stage with its key where that is known, and why one that was run before runs again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.contract import Frozen, Sha256
from orchestrator.run.costs import Cost, expected_costs
from orchestrator.run.keys import KeyChange, KeyPart, key_changes, key_material, stage_key
from orchestrator.run.known import Known, look_up
from orchestrator.run.run import Setup
from orchestrator.stages import HostFolder, Stage, StageOutput
from orchestrator.store import Provenance, Store


class StageEstimate(Cost):
    """What a stage will cost, and in words how that is known."""

    basis: str


class StagePreview(Frozen):
    """`key` is None until the stage's image is built and its inputs exist. `status` is `cached` or `to run`.

    Of a stage to run that has a stored result, `before` is the nearest one's key and `changes` are the parts that
    differ. `unknown` are parts, `image` or an input such as `inputs.checkpoint`, that are not known yet. `not_used` is
    why the stored result of this very key does not count. `after` are stages that have to have ended, whatever the end.
    `device` has those that may serve it, with commas between them; it takes `gpus` of them, none on a CPU. A `timed`
    stage needs them for itself, and with `host_alone` the whole host. `memory_bytes` bounds its worker's memory, None:
    what the host can spare. `estimate` is None where the stage is not to run, or its cost is not known.
    """

    id: str
    status: str
    operation: str
    image: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    needs: tuple[str, ...]
    after: tuple[str, ...] = ()
    timed: bool
    host_alone: bool = False
    device: str
    gpus: int = 0
    memory_bytes: int | None = None
    deadline_seconds: float
    estimate: StageEstimate | None = None
    key: Sha256 | None
    before: Sha256 | None = None
    changes: tuple[KeyChange, ...] = ()
    unknown: tuple[str, ...] = ()
    not_used: str | None = None


@dataclass(frozen=True)
class _ToRun:
    """What is known of the key of a stage to run. `unknown`: see `StagePreview`."""

    material: Mapping[str, Any]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class _Before:
    """A stored result of the same stage."""

    provenance: Provenance
    changes: tuple[KeyChange, ...]

    @property
    def distance(self) -> tuple[int, int, float]:
        """Least for the one with the fewest parts, then names, that differ; the latest of several."""
        names = sum(len(change.names) for change in self.changes)
        return len(self.changes), names, -self.provenance.started.timestamp()


def look_ahead(setup: Setup) -> Known:
    """Look every stage up without building an image. `missing` are those that a run would have to run now."""

    def key_of(stage: Stage, inputs: dict[str, Sha256]) -> Sha256 | None:
        material = _material(stage, inputs, setup)
        return stage_key(material) if KeyPart.IMAGE in material else None

    return look_up(setup.plan.stages, setup.store, key_of)


def preview(setup: Setup, known: Known) -> Iterator[StagePreview]:
    """Every stage of the plan as `look_ahead` found it."""
    artifacts = known.artifacts
    missing = {stage.id: _to_run(stage, artifacts, setup) for stage in known.missing}
    nearest = _nearest(setup.store, missing)
    costs = expected_costs(setup, known.missing)
    for stage in setup.plan.stages:
        to_run, before = missing.get(stage.id), nearest.get(stage.id)
        yield StagePreview(
            id=stage.id,
            status="cached" if to_run is None else "to run",
            operation=stage.operation.value,
            image=stage.image,
            parameters=stage.parameters.model_dump(mode="json"),
            inputs={
                name: str(source.path) if isinstance(source, HostFolder) else source.stage
                for name, source in stage.inputs.items()
            },
            needs=stage.needs,
            after=stage.after,
            timed=stage.timed,
            host_alone=stage.host_alone,
            device=",".join(stage.device_names),
            gpus=stage.gpus,
            memory_bytes=stage.limits.memory_bytes,
            deadline_seconds=stage.limits.deadline_seconds,
            estimate=_estimate(*costs[stage.id]) if stage.id in costs else None,
            key=known.keys.get(stage.id),
            before=before.provenance.key if before else None,
            changes=before.changes if before else (),
            unknown=to_run.unknown if to_run else (),
            not_used=known.unreadable[stage.id].message if stage.id in known.unreadable else None,
        )


def _estimate(cost: Cost | None, basis: str) -> StageEstimate | None:
    return None if cost is None else StageEstimate(**cost.model_dump(), basis=basis)


def _material(stage: Stage, inputs: Mapping[str, Sha256], setup: Setup) -> dict[str, Any]:
    image = setup.catalog.images[stage.image]
    identity = setup.runtime.identity(image, stage.device.kind)
    return key_material(stage, image.description, identity, inputs, setup.device.model)


def _to_run(stage: Stage, artifacts: Mapping[str, Sha256], setup: Setup) -> _ToRun:
    made = {name: one for name, one in stage.inputs.items() if isinstance(one, StageOutput)}
    later = tuple(f"{KeyPart.INPUTS}.{name}" for name, one in made.items() if one.stage not in artifacts)
    at_hand = {name: artifacts[one.stage] for name, one in made.items() if one.stage in artifacts}
    material = _material(stage, at_hand, setup)
    return _ToRun(material, later if KeyPart.IMAGE in material else (KeyPart.IMAGE.value, *later))


def _nearest(store: Store, missing: Mapping[str, _ToRun]) -> dict[str, _Before]:
    """For each stage to run, by id, the stored result that differs least, where there is any."""
    nearest: dict[str, _Before] = {}
    for provenance in store.results_of(missing.keys()) if missing else ():
        one = missing[provenance.stage]
        before = _Before(provenance, key_changes(provenance.material, one.material, one.unknown))
        nearest[provenance.stage] = min(before, nearest.get(provenance.stage, before), key=lambda found: found.distance)
    return nearest
