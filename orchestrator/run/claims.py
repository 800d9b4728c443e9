"""What an image says of its own work, held against the request, its inputs, and what the host counts in the files."""

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.contract import (
    BenchmarkParameters,
    BenchmarkResult,
    CheckpointDescriptor,
    CheckpointFormat,
    CompressParameters,
    CompressResult,
    DatasetDescriptor,
    DatasetSource,
    Descriptor,
    DirectoryModel,
    EvaluateParameters,
    EvaluateResult,
    ExportParameters,
    ExportResult,
    FetchParameters,
    FetchResult,
    FidelityParameters,
    FidelityResult,
    GgufModel,
    HubModel,
    PackageModel,
    ProfileParameters,
    ProfileResult,
    Result,
    Setting,
    StatesDescriptor,
    StatesParameters,
    StatesResult,
    TextFile,
)
from harness.contract.claims import count_claims
from harness.contract.matrices import Matrices
from harness.contract.weights import BadWeights, read_stored
from orchestrator.host.hashing import Poll, never
from orchestrator.run.shapes import Claim, of_shapes
from orchestrator.runtime.base import Invocation
from orchestrator.store.described import BadArtifact, read_descriptor

_CHUNK_BYTES = 2**20
_SHORT_CHARACTERS = 80


class FalseClaim(Exception):
    """An artifact is not what its descriptor says of its content; the message names the field with both values."""


def claims(asked: Invocation, result: Result) -> Iterator[Claim]:
    """What a result repeats of its request, of the task's description and of the descriptors of its inputs."""
    match asked.parameters, result:
        case FetchParameters() as parameters, FetchResult():
            yield from _of_fetch(parameters, result.artifact)
        case CompressParameters() as parameters, CompressResult():
            yield from _of_compress(parameters, result.artifact, asked)
        case ExportParameters() as parameters, ExportResult():
            yield from _of_export(parameters, result.artifact, _input(asked, "checkpoint"))
        case EvaluateParameters() as parameters, EvaluateResult():
            yield "task", result.task, parameters.task
            yield "engine", result.engine, parameters.engine
            if asked.task is not None:
                yield "metric", result.metric, asked.task.metric
                yield "protocol", result.protocol, parameters.protocol_of(asked.task.protocol)
        case StatesParameters() as parameters, StatesResult():
            yield from _of_states(parameters, result.artifact, asked)
        case FidelityParameters() as parameters, FidelityResult():
            yield "task", result.task, parameters.task
            yield "engine", result.engine, parameters.engine
            yield from _of_fidelity(parameters, result, asked)
        case ProfileParameters() as parameters, ProfileResult():
            yield "macs_tokens", result.macs_tokens, parameters.macs_tokens
            yield from _of_profile(result, parameters, asked)
        case BenchmarkParameters() as parameters, BenchmarkResult():
            yield from _of_benchmark(parameters, result)


def false_claims(asked: Invocation, result: Result) -> Iterator[str]:
    """The claims that are not true, each in a clause. Numbers are compared up to rounding."""
    for field, found, wanted in claims(asked, result):
        if found != wanted and not _nearly(found, wanted):
            yield f"result.{field} is {_short(found)}, and {_short(wanted)} was asked for"


def check_content(folder: Path, descriptor: Descriptor, poll: Poll = never) -> None:
    """Count in an artifact what its descriptor says of it.

    Raises:
        FalseClaim: something there is not so, or cannot be counted.
    """
    if isinstance(descriptor, DatasetDescriptor):
        for name, said, found in _rows(folder, descriptor, poll):
            if said != found:
                raise FalseClaim(f"rows.{name} is {said}, and the file holds {found}")
        return
    if isinstance(descriptor, StatesDescriptor):
        for what, stated, counted in _shapes_of_states(folder, descriptor):
            if stated != counted:
                raise FalseClaim(f"{what} is {stated}, and by the tensors it is {counted}")
        return
    try:
        untrue = count_claims(folder, descriptor, poll).untrue
    except BadWeights as bad:
        raise FalseClaim(f"files cannot be counted: {bad}") from bad
    if untrue:
        raise FalseClaim(str(untrue[0]))


def _of_fetch(parameters: FetchParameters, made: Descriptor) -> Iterator[Claim]:
    source = parameters.source
    is_data = isinstance(source, DatasetSource | TextFile)
    wanted = DatasetDescriptor if is_data else CheckpointDescriptor
    yield "artifact.artifact", made.artifact, wanted.model_fields["artifact"].default
    if isinstance(made, CheckpointDescriptor) and not is_data:
        if parameters.dtype is not None:
            yield "artifact.dtype", made.dtype.value, parameters.dtype.value
        yield "artifact.format", made.format.value, CheckpointFormat.DENSE.value
        yield "artifact.source", made.source, _source_text(source)
        for name in ("parent", "method", "setting", "sparsity", "quantization", "exported"):
            yield f"artifact.{name}", getattr(made, name), None
    if isinstance(made, DatasetDescriptor) and isinstance(source, DatasetSource):
        allowed = (source.name, source.substitute)
        yield "artifact.name", made.name, made.name if made.name in allowed else source.name


def _source_text(source: object) -> str | None:
    """A model's source as a descriptor names it."""
    match source:
        case HubModel():
            return f"hub:{source.repository}@{source.revision}"
        case DirectoryModel():
            return f"dir:{source.tree}"
        case PackageModel() | GgufModel():
            return source.text
    return None


def _of_compress(parameters: CompressParameters, made: CheckpointDescriptor, asked: Invocation) -> Iterator[Claim]:
    yield "artifact.method", made.method, parameters.method
    yield "artifact.setting", made.setting, parameters.setting.name
    yield "artifact.exported", made.exported, None
    yield from _of_setting(parameters.setting, made)
    for name, value in parameters.options.items():
        if name in made.options:
            yield f"artifact.options.{name}", made.options[name], value
    parent, calibration = _input(asked, "checkpoint"), _input(asked, "calibration")
    if isinstance(calibration, DatasetDescriptor) and made.calibrated_on is not None:
        yield "artifact.calibrated_on", made.calibrated_on, calibration.name
    if isinstance(parent, CheckpointDescriptor):
        yield "artifact.parent", made.parent, parent.digest
        yield "artifact.source", made.source, parent.source
        if _weights_of(made) == _weights_of(parent):  # a copy, which no method has made smaller or sparser
            yield "artifact.sparsity", made.sparsity, None
            yield "artifact.quantization", made.quantization, None


def _of_setting(setting: Setting, made: CheckpointDescriptor) -> Iterator[Claim]:
    if made.sparsity is not None and setting.sparsity is not None:
        yield "artifact.sparsity.target", made.sparsity.target, setting.sparsity
        if setting.zeros_of is not None:
            yield "artifact.sparsity.pattern", made.sparsity.pattern, setting.name
    if made.quantization is not None and setting.weight_bits is not None:
        yield "artifact.quantization.weight_bits", made.quantization.weight_bits, setting.weight_bits
        yield "artifact.quantization.activation_bits", made.quantization.activation_bits, setting.activation_bits
        yield "artifact.quantization.group_size", made.quantization.group_size, setting.group_size


def _of_export(parameters: ExportParameters, made: CheckpointDescriptor, source: Descriptor | None) -> Iterator[Claim]:
    yield "artifact.format", made.format.value, parameters.target.value
    if not isinstance(source, CheckpointDescriptor):
        return
    for name in ("parent", "method", "setting", "source"):
        yield f"artifact.{name}", getattr(made, name), getattr(source, name)
    exported = made.exported
    if exported is None:
        yield "artifact.exported", None, f"{{source: {source.digest}}}"
        return
    yield "artifact.exported.source", exported.source, source.digest
    yield "artifact.exported.source_format", exported.source_format.value, source.format.value
    unpadded = source.parameter_count if exported.padded else None
    yield "artifact.exported.unpadded_parameter_count", exported.unpadded_parameter_count, unpadded


def _of_states(parameters: StatesParameters, made: StatesDescriptor, asked: Invocation) -> Iterator[Claim]:
    yield "artifact.task", made.task, parameters.task
    yield "artifact.items", made.items, min(parameters.limit or made.items_available, made.items_available)
    for name in ("checkpoint", "dataset"):
        if (read := _input(asked, name)) is not None:
            yield f"artifact.{name}", getattr(made, name), read.digest


def _of_fidelity(parameters: FidelityParameters, result: FidelityResult, asked: Invocation) -> Iterator[Claim]:
    states = _input(asked, "states")
    if isinstance(states, StatesDescriptor):
        yield "states", result.states, states.digest
        # How many tokens of each distribution are known is the engine's to say.
        said = re.sub(r"(^|/)kl-top[1-9]\d*/", r"\1kl/", result.protocol, count=1)
        yield "protocol", said, parameters.protocol_of(f"kl/{states.protocol}")
        yield "items_available", result.items_available, states.items_available
        due = min(parameters.limit or states.items, states.items)
        yield "items", result.items + sum(result.excluded.values()), due


def _shapes_of_states(folder: Path, made: StatesDescriptor) -> Iterator[tuple[str, object, object]]:
    """What a descriptor of states says of its tensors' shapes, and what they have. Raises FalseClaim as well."""
    try:
        tensors = read_stored(folder)
    except BadWeights as bad:
        raise FalseClaim(f"files cannot be counted: {bad}") from bad
    states = {name: one.shape for name, one in tensors.items() if name.startswith("states.")}
    wanted = {f"states.{number}" for number in range(made.requests)}
    yield "requests", made.requests, len(states) if states.keys() == wanted else sorted(states.keys() ^ wanted)[0]
    yield "tokens", made.tokens, sum(shape[0] for shape in states.values())
    widths = {shape[1] for shape in states.values()}
    yield "hidden_size", made.hidden_size, widths.pop() if len(widths) == 1 else sorted(widths)
    head, table = tensors.get("weight"), tensors.get("requests")
    yield "vocabulary_size", (made.vocabulary_size, made.hidden_size), None if head is None else head.shape
    yield "requests", (made.requests, 3), None if table is None else table.shape


def _of_benchmark(parameters: BenchmarkParameters, result: BenchmarkResult) -> Iterator[Claim]:
    yield "backend", result.backend, parameters.backend
    yield "speeds.batch_size", tuple(speed.batch_size for speed in result.speeds), parameters.batch_sizes
    if parameters.tensor_parallel > 1:
        yield "memory.per_device_bytes", len(result.memory.per_device_bytes), parameters.tensor_parallel


def _of_profile(result: ProfileResult, parameters: ProfileParameters, asked: Invocation) -> Iterator[Claim]:
    checkpoint = _input(asked, "checkpoint")
    if not isinstance(checkpoint, CheckpointDescriptor):
        return
    yield "parameter_count", result.parameter_count, checkpoint.parameter_count
    yield "disk_bytes", result.disk_bytes, checkpoint.size_bytes
    try:
        tensors = read_stored(asked.inputs["checkpoint"])
        matrices = Matrices.read(asked.inputs["checkpoint"], checkpoint.format)
    except BadWeights:
        return  # the artifact was counted when it was published
    yield "weight_bytes", result.weight_bytes, sum(one.size_bytes for one in tensors.values())
    if result.bits_per_weight is not None:
        yield "bits_per_weight", result.bits_per_weight, matrices.bits_per_weight
    yield from of_shapes(result, parameters, matrices, checkpoint)


def _input(asked: Invocation, name: str) -> Descriptor | None:
    """The descriptor of an input that is an artifact."""
    try:
        return read_descriptor(asked.inputs[name]) if name in asked.inputs else None
    except BadArtifact:
        return None


def _weights_of(descriptor: CheckpointDescriptor) -> Mapping[str, str]:
    return {name: entry.sha256 for name, entry in descriptor.files.items() if name.endswith(".safetensors")}


def _rows(folder: Path, descriptor: DatasetDescriptor, poll: Poll) -> Iterator[tuple[str, int | None, int | str]]:
    """Of each split its name, how many rows it should have, and how many lines its file holds."""
    splits = {name.removesuffix(".jsonl.gz") for name in descriptor.files if name.endswith(".jsonl.gz")}
    for name in sorted(splits | descriptor.rows.keys()):
        path = folder / f"{name}.jsonl.gz"
        yield name, descriptor.rows.get(name), _count_lines(path, poll) if name in splits else "no such file"


def _count_lines(path: Path, poll: Poll) -> int:
    lines, last = 0, b"\n"
    try:
        with gzip.open(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                poll()
                lines += chunk.count(b"\n")
                last = chunk[-1:]
    except (OSError, EOFError, zlib.error) as broken:
        raise FalseClaim(f"{path.name} cannot be read: {broken}") from broken
    return lines + (last != b"\n")


def _nearly(found: object, wanted: object) -> bool:
    numbers = (int, float)
    return isinstance(found, numbers) and isinstance(wanted, numbers) and math.isclose(found, wanted, rel_tol=1e-6)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHORT_CHARACTERS else f"{text[:_SHORT_CHARACTERS]}…"
