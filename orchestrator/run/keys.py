"""The key of a stage: what decides its result, each part under its own name, and what differs between two of them."""

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from typing import Any

from harness.contract import (
    CONTRACT_VERSION,
    DatasetSource,
    FetchParameters,
    Frozen,
    ImageDescription,
    Parameters,
    Sha256,
    canonical_json,
    digest_of,
    work_source,
)
from orchestrator.stages import ImageIdentity, Stage, Turn

_ABSENT = object()


class KeyPart(StrEnum):
    """What a stage's result depends on. `code` is the harness's source that the stage can load, by file.

    `data` is what the image's description says of the data sets that a fetch may deliver, by name.
    `turn` keeps repeated measurements apart.
    """

    CONTRACT = "contract"
    OPERATION = "operation"
    CODE = "code"
    IMAGE = "image"
    PARAMETERS = "parameters"
    DATA = "data"
    INPUTS = "inputs"
    DEVICE = "device"
    TURN = "turn"


class KeyChange(Frozen):
    """One part that differs; `names` are the files, parameters or inputs in it that do."""

    part: KeyPart
    names: tuple[str, ...] = ()


def key_material(
    stage: Stage,
    image: ImageDescription,
    identity: ImageIdentity | None,
    inputs: Mapping[str, Sha256],
    device_model: str,
) -> dict[str, Any]:
    """Everything that decides a stage's result, and nothing else: no path, no time, no name the user gave.

    A part that is not known yet is left out: the image without `identity`, an input without its digest.
    """
    material: dict[str, Any] = {
        KeyPart.CONTRACT.value: CONTRACT_VERSION,
        KeyPart.OPERATION.value: stage.operation.value,
        KeyPart.CODE.value: work_source(image, stage.operation, stage.parameters),
        KeyPart.PARAMETERS.value: stage.parameters.model_dump(mode="json"),
        KeyPart.INPUTS.value: dict(inputs),
    }
    if described := _described_data(image, stage.parameters):
        material[KeyPart.DATA.value] = described
    if identity is not None:
        material[KeyPart.IMAGE.value] = str(identity)
    if stage.depends_on_device:
        device: dict[str, Any] = {"model": device_model, "threads": stage.device.threads}
        if len(stage.device.uuids) > 1:
            device["count"] = len(stage.device.uuids)
        material[KeyPart.DEVICE.value] = device
    if stage.turn not in (None, Turn()):
        material[KeyPart.TURN.value] = stage.turn.model_dump(mode="json")
    canonical_json(material)
    return material


def _described_data(image: ImageDescription, parameters: Parameters) -> dict[str, Any]:
    """All that a fetch reads of its image's description; what else is described there decides nothing of it."""
    if not isinstance(parameters, FetchParameters) or not isinstance(parameters.source, DatasetSource):
        return {}
    named = (parameters.source.name, parameters.source.substitute)
    return {one.name: one.model_dump(mode="json") for one in image.datasets if one.name in named}


def stage_key(material: Mapping[str, Any]) -> Sha256:
    """The content address of a stage's result, given everything that decides it."""
    return digest_of(material)


def key_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], unknown: Collection[str] = ()
) -> tuple[KeyChange, ...]:
    """The parts in which `now` differs from what a stored result was made with.

    What cannot be known yet, `image` or an input such as `inputs.checkpoint`, is no difference.
    """
    changes = []
    for part in KeyPart:
        differing = _differing(part.value, before.get(part, _ABSENT), now.get(part, _ABSENT))
        if names := [name for name in differing if name not in unknown]:
            within = (name.removeprefix(f"{part}.") for name in names if name != part)
            changes.append(KeyChange(part=part, names=tuple(within)))
    return tuple(changes)


def _differing(name: str, before: Any, now: Any) -> Iterator[str]:
    """The dotted names of the smallest fields that differ; `name` itself where one side has no fields."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for field in sorted(before.keys() | now.keys()):
            yield from _differing(f"{name}.{field}", before.get(field, _ABSENT), now.get(field, _ABSENT))
    elif before != now:
        yield name
