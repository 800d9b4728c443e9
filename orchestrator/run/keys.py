"""The key of a stage: what decides its result, each part under its own name, and what differs between two of them."""

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.contract import (
    CONTRACT_VERSION,
    DatasetSource,
    FetchParameters,
    Frozen,
    ImageDescription,
    Operation,
    Parameters,
    Sha256,
    canonical_json,
    source,
    work_source,
)
from orchestrator.stages import ImageIdentity, Stage, Turn
from orchestrator.store.shared_code import SharedCode, digest_of_material

_ABSENT = object()
_FOR_READERS: dict[str, Any] = {"licence": True, "splits": {"__all__": {"question"}}}
"""What of a data set's description a report alone reads."""


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
    parameters = stage.parameters.model_dump(mode="json")
    material: dict[str, Any] = {
        KeyPart.CONTRACT.value: CONTRACT_VERSION,
        KeyPart.OPERATION.value: stage.operation.value,
        KeyPart.CODE.value: _source(image, stage.operation, stage.parameters, parameters),
        KeyPart.PARAMETERS.value: parameters,
        KeyPart.INPUTS.value: dict(inputs),
    }
    if described := _described_data(image, stage.parameters):
        material[KeyPart.DATA.value] = described
    if identity is not None:
        material[KeyPart.IMAGE.value] = str(identity)
    if stage.depends_on_device:
        device: dict[str, Any] = {"model": device_model, "threads": stage.device.threads}
        if stage.device_count > 1:
            device["count"] = stage.device_count
        material[KeyPart.DEVICE.value] = device
    if stage.turn not in (None, Turn()):
        material[KeyPart.TURN.value] = stage.turn.model_dump(mode="json")
    return material


_SOURCES: dict[tuple[Path, int, str, bytes], tuple[ImageDescription, SharedCode]] = {}
"""What was found by `_source`, with the image, whose identity is not given to another as long as it is here."""


def _source(
    image: ImageDescription, operation: Operation, parameters: Parameters, document: Mapping[str, Any]
) -> Mapping[str, Sha256]:
    """The source that a stage can load, looked up once for all stages that ask the same of one image.

    `document` is that of the parameters. Raises as `canonical_json` does.
    """
    asked = (source.harness_folder(), id(image), operation.value, canonical_json(document))
    if asked not in _SOURCES:
        _SOURCES[asked] = image, SharedCode(work_source(image, operation, parameters))
    return _SOURCES[asked][1]


def _described_data(image: ImageDescription, parameters: Parameters) -> dict[str, Any]:
    """All that a fetch reads of its image's description; what else is described there decides nothing of it.

    Of a wheel its digest: what it is called stands with the data set.
    """
    if not isinstance(parameters, FetchParameters) or not isinstance(parameters.source, DatasetSource):
        return {}
    named = (parameters.source.name, parameters.source.substitute)
    described = {}
    for one in image.datasets:
        if one.name in named:
            described[one.name] = one.model_dump(mode="json", exclude=_FOR_READERS)
            if (wheel := image.wheel_of(one)) is not None:
                described[one.name]["wheel"] = wheel.sha256
    return described


def stage_key(material: Mapping[str, Any]) -> Sha256:
    """The content address of a stage's result, given everything that decides it."""
    return digest_of_material(material)


def whole_key(material: Mapping[str, Any]) -> Sha256:
    """The key of the evaluation of all items of which the stage scores a slice; of any other stage, its own."""
    parameters = material[KeyPart.PARAMETERS.value]
    if parameters.get("slice") is None:
        return stage_key(material)
    return stage_key({**material, KeyPart.PARAMETERS.value: {**parameters, "slice": None}})


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
