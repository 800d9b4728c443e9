"""Whether the results of an artifact belong to their keys, requests, inputs, images and source."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import PositiveInt, ValidationError

from harness.contract import (
    DESCRIPTOR_NAME,
    REQUEST,
    WHEEL_INPUT,
    Device,
    DeviceKind,
    EvaluateParameters,
    Frozen,
    Parameters,
    Sha256,
    canonical_json,
    read_regular,
)
from orchestrator.artifact.contents import Contents
from orchestrator.artifact.packing import differing_source
from orchestrator.artifact.verification import Finding
from orchestrator.images.catalog import ImageCatalog
from orchestrator.run.claims import false_claims
from orchestrator.run.keys import stage_key
from orchestrator.runtime.base import Invocation
from orchestrator.stages import REQUEST_NAME, Subject
from orchestrator.store import RunRecord, StageRecord, Store
from orchestrator.store.store import PROVENANCE_NAME
from orchestrator.store.versioned import read

_PROCESS = "process:"


@dataclass(frozen=True)
class Packed:
    """What belongings are checked in. `source` has the sha256 of the packed source by the names that keys have."""

    contents: Contents
    record: RunRecord
    store: Store
    stages: Mapping[str, StageRecord]
    catalog: ImageCatalog
    source: Mapping[str, Sha256]


class _Device(Frozen):
    model: str
    threads: PositiveInt | None = None
    count: PositiveInt = 1


class _Material(Frozen):
    """The form of what a key is made of, as far as something is read out of it."""

    operation: str
    parameters: dict[str, Any]
    inputs: dict[str, Sha256]
    image: str = ""
    device: _Device | None = None


def require_form(stage: StageRecord) -> None:
    """Raises `Unreadable` where what the key is said to be made of is not of the form that any key has."""
    material = stage.provenance.material

    def read_it() -> None:
        keyed = _Material.model_validate(material, extra="ignore")
        typed(keyed.operation, keyed.parameters)

    read(f"stages/{stage.provenance.key}/{PROVENANCE_NAME}", read_it)


def false_keys(packed: Packed) -> Iterator[Finding]:
    """Results that are kept under a key that is not theirs, or whose key is of something else than was planned."""
    for name, stage in packed.stages.items():
        state, material = packed.record.stages[name], stage.provenance.material
        for reason in (
            *_if(stage_key(material) != stage.provenance.key, "its key is not the digest of what it is made of"),
            *_if(stage.provenance.key != state.key, "it is not the result that the run's record names"),
            *_if(material.get("operation") != state.operation.value, "its key is of another operation"),
            *_if(stage.final.result.operation != state.operation.value, "its result is of another operation"),
            *_if(
                stage.final.id != stage.provenance.stage, "its result answers another stage than its provenance names"
            ),
            *_differing_parameters(state.operation.value, state.parameters, material.get("parameters")),
            *_other_machine(packed.record, state.image, material),
            *_other_subject(packed.record, state.subject),
        ):
            yield Finding(what=name, reason=reason)


def _if(holds: bool, reason: str) -> Iterator[str]:
    if holds:
        yield reason


def _differing_parameters(operation: str, planned: Any, keyed: Any) -> Iterator[str]:
    try:
        if typed(operation, planned) != typed(operation, keyed):
            yield "its key is of other parameters than were planned"
    except ValidationError as invalid:
        yield f"its parameters cannot be read: {invalid.errors(include_url=False)[0]['msg']}"


def typed(operation: str, parameters: Any) -> Parameters:
    """Parameters as this version understands them: what a former one did not know yet has its default.

    Raises:
        ValidationError: they are none of the operation.
    """
    document = {"id": "", "operation": operation, "output": "/out", "parameters": parameters}
    request = REQUEST.validate_python(json.loads(canonical_json(document)))
    return request.parameters  # type: ignore[union-attr]  # describe is never a stage


def _other_machine(record: RunRecord, image: str, material: Mapping[str, Any]) -> Iterator[str]:
    facts = record.facts
    identities = {identity for name, identity in facts.images.items() if name.startswith(f"{image} on ")}
    if identities and material.get("image") not in identities:
        yield "its key is of another image than the run's record names"
    device = material.get("device")
    if isinstance(device, dict) and device.get("model") != facts.device_model:
        yield "its key is of another device than the run's record names"


def _other_subject(record: RunRecord, subject: Subject | None) -> Iterator[str]:
    if subject is None:
        return
    families = {model.name: model.family or model.name for model in record.manifest.models}
    if families.get(subject.model) != subject.family:
        yield "its model is none of the manifest's, or of another family there"


def false_requests(packed: Packed) -> Iterator[Finding]:
    """Requests that ask for something else than the key says, and results that repeat something else of them."""
    for name, stage in packed.stages.items():
        try:
            yield from (Finding(what=name, reason=reason) for reason in _of_request(packed, name, stage))
        except (OSError, ValueError, RecursionError) as invalid:
            what = invalid.errors(include_url=False)[0]["msg"] if isinstance(invalid, ValidationError) else invalid
            yield Finding(what=name, reason=f"its request cannot be read: {what}")


def _of_request(packed: Packed, name: str, stage: StageRecord) -> Iterator[str]:
    state, material = packed.record.stages[name], stage.provenance.material
    inputs: Mapping[str, str] = material.get("inputs", {})
    device = Device()
    path = packed.store.stages / stage.provenance.key / REQUEST_NAME
    if path.exists():
        document = json.loads(read_regular(path))
        request = REQUEST.validate_python(document)
        yield from _if(request.id != stage.provenance.stage, "its request is of another stage")
        yield from _if(request.operation != state.operation.value, "its request is of another operation")
        yield from _differing_parameters(state.operation.value, document.get("parameters"), material.get("parameters"))
        yield from _if(set(_keyed(document.get("inputs", {}))) != inputs.keys(), "its request has other inputs")
        device = Device.model_validate(document.get("device", {}))
        keyed = material.get("device")
        threads = keyed.get("threads") if isinstance(keyed, dict) else device.threads
        yield from _if(device.threads != threads, "its request has other threads than its key")
    if state.image not in packed.catalog.images:
        return
    parameters = typed(state.operation.value, material.get("parameters"))
    task = packed.catalog.tasks.get(parameters.task) if isinstance(parameters, EvaluateParameters) else None
    asked = Invocation(
        image=packed.catalog.images[state.image],
        operation=state.operation,
        parameters=parameters,
        folder=packed.store.attempts,
        stage=stage.provenance.stage,
        run=packed.record.run,
        inputs={one: packed.store.artifacts.path(digest) for one, digest in inputs.items()},
        device=device,
        task=None if task is None else task[1],
    )
    yield from false_claims(asked, stage.final.result)


def _keyed(inputs: Iterable[str]) -> Iterator[str]:
    """Those that stand in a key by their digest; of a fetch's own, its source, parameters have it."""
    return (name for name in inputs if name != "source" and not name.startswith(WHEEL_INPUT))


def lay_out_descriptors(store: Store, stages: Mapping[str, StageRecord]) -> None:
    """Put what results say of the artifacts that they made where those would lie, for who reads a stage's inputs."""
    for stage in stages.values():
        if (descriptor := stage.artifact) is not None:
            path = store.artifacts.path(descriptor.digest) / DESCRIPTOR_NAME
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(canonical_json(descriptor.model_dump(mode="json")))


def false_inputs(packed: Packed) -> Iterator[Finding]:
    """Results of inputs that no stage of the run made, or that are of another model or variant."""
    makers: dict[str, list[tuple[str, Subject | None]]] = {}
    for name, stage in packed.stages.items():
        digest = stage.provenance.artifact
        if digest is not None:
            makers.setdefault(digest, []).append((name, packed.record.stages[name].subject))
        if digest is not None and (stage.artifact is None or stage.artifact.digest != digest):
            yield Finding(
                what=name, reason="the artifact that its provenance names is not the one that its result does"
            )
    for name, stage in packed.stages.items():
        subject = packed.record.stages[name].subject
        for role, digest in stage.provenance.material.get("inputs", {}).items():
            made = makers.get(digest)
            if made is None:
                yield Finding(what=name, reason=f"its {role} was made by no stage of the run")
            elif role == "checkpoint" and subject is not None and not any(_may_read(subject, of) for _, of in made):
                yield Finding(what=name, reason=f"its checkpoint is of another variant: {made[0][0]} made it")


def _may_read(subject: Subject, of: Subject | None) -> bool:
    """A stage reads its own variant, or the dense model of it to make it from."""
    return of is not None and of.model == subject.model and of.method in (None, subject.method)


def false_source(packed: Packed) -> Iterator[Finding]:
    """Results of other source than is packed, but for those that are said to be."""
    for name, stage in packed.stages.items():
        differing = next(differing_source(stage, packed.source), None)
        is_said = name in packed.contents.other_source
        if differing is not None and not is_said:
            yield Finding(what=name, reason=f"it is of another {differing} than is packed")
        elif differing is None and is_said:
            yield Finding(what=name, reason="it is said to be of other source, and is not")


def false_locks(packed: Packed) -> Iterator[Finding]:
    """Locks other than those that the run's record names; a container's identity has more in it than is packed."""
    for name, identity in packed.record.facts.images.items():
        image, _, kind = name.partition(" on ")
        if not identity.startswith(_PROCESS) or image not in packed.catalog.images or packed.contents.other_source:
            continue
        found = {one.lock_digest(DeviceKind(kind)) for one in packed.catalog.images[image].builds(DeviceKind(kind))}
        if identity.split(":")[1] not in found:
            yield Finding(what=f"images/{image}", reason="its lock is not the one that the run's record names")
