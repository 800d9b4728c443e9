"""What a plan would do now: each stage with its key where it is known already."""

from collections.abc import Iterator
from typing import Any

from harness.contract import Frozen, Sha256, harness_digest
from orchestrator.run.known import look_up
from orchestrator.run.run import Setup
from orchestrator.stages import HostFolder, Stage, key_material, stage_key


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

    def key_of(stage: Stage, inputs: dict[str, Sha256]) -> Sha256 | None:
        identity = setup.runtime.identity(setup.catalog.images[stage.image], stage.device.kind)
        if identity is None:
            return None
        return stage_key(key_material(stage, identity, harness_digest(), inputs, setup.device.model))

    known = look_up(setup.plan.stages, setup.store, key_of)
    for stage in setup.plan.stages:
        yield StagePreview(
            id=stage.id,
            status="known" if stage.id in known.records else "to run",
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
            key=known.keys.get(stage.id),
        )
