"""What a plan would do now: each stage with its key where it is known already."""

from collections.abc import Iterator
from typing import Any

from harness.contract import Frozen, Sha256, harness_digest
from orchestrator.run.run import Setup
from orchestrator.stages import HostFolder, Stage, StageOutput, key_material, stage_key


class StagePreview(Frozen):
    """`key` is None until the stage's image is built and its inputs exist. `status` is `known` or `to run`."""

    id: str
    status: str
    operation: str
    image: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    needs: tuple[str, ...]
    timed: bool
    device: str
    key: Sha256 | None


def preview(setup: Setup) -> Iterator[StagePreview]:
    """Look every stage up without building an image."""
    artifacts: dict[str, Sha256] = {}
    for stage in setup.plan.stages:
        key = _key(stage, setup, artifacts)
        record = setup.store.find(key) if key else None
        if record is not None and record.artifact is not None:
            artifacts[stage.id] = record.artifact.digest
        yield StagePreview(
            id=stage.id,
            status="to run" if record is None else "known",
            operation=stage.operation.value,
            image=stage.image,
            parameters=stage.parameters.model_dump(mode="json"),
            inputs={
                name: str(source.path) if isinstance(source, HostFolder) else source.stage
                for name, source in stage.inputs.items()
            },
            needs=stage.needs,
            timed=stage.timed,
            device=",".join(stage.device_names),
            key=key,
        )


def _key(stage: Stage, setup: Setup, artifacts: dict[str, Sha256]) -> Sha256 | None:
    identity = setup.runtime.identity(setup.catalog.images[stage.image], stage.device.kind)
    if identity is None or any(need not in artifacts for need in stage.needs):
        return None
    inputs = {name: artifacts[one.stage] for name, one in stage.inputs.items() if isinstance(one, StageOutput)}
    return stage_key(key_material(stage, identity, harness_digest(), inputs, setup.device.model))
