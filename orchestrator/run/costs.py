"""What work has cost: what a stage does, with what, on which device, and the time and memory that it took.

Every figure was measured once: in a run of this store on this device model; else, on a CPU, in the run that
`usual_costs.json` was written from (`benchmarks/usual_costs.py`); else, on a GPU, for random weights of the same shape.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

from harness.contract import CompressParameters, DeviceKind, Frozen, Sha256, digest_of
from orchestrator.host.load import MachineLoad
from orchestrator.manifest.sources import MODEL_ALIASES
from orchestrator.run.run import Setup
from orchestrator.stages import Stage
from orchestrator.store import Provenance, RunRecord, Store, Unreadable
from orchestrator.store.history import all_runs

_FILE = Path(__file__).with_name("usual_costs.json")
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


@cache
def usual_costs() -> UsualCosts:
    return UsualCosts.model_validate_json(_FILE.read_bytes())


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


def measured_here(store: Store, device_model: str, wanted: Collection[Sha256]) -> dict[Sha256, Cost]:
    """Of each work that is `wanted` what it cost in the latest run on this device model that did it."""
    costs: dict[Sha256, Cost] = {}
    for record in reversed(all_runs(store)[0]) if wanted and store.root.is_dir() else ():
        left = [work for work in wanted if work not in costs]
        if left and record.device_model == device_model:
            costs |= costs_of(record, store, left)
    return costs


def work_of(stage: Stage, setup: Setup) -> Sha256:
    """The `work_digest` of a planned stage."""
    sources = {model.name: model.source for model in setup.manifest.models}
    source = _normal(sources[stage.subject.model]) if stage.subject is not None else None
    return work_digest(stage.operation.value, stage.parameters.model_dump(mode="json"), source)


def cost_of(
    stage: Stage, work: Sha256, here: Mapping[Sha256, Cost], usual: UsualCosts, setup: Setup
) -> tuple[Cost | None, str]:
    """What a stage will cost, and in words how that is known; None where nobody has measured it.

    `here` is what `measured_here` found for `work`, which is the stage's.
    """
    if work in here:
        return here[work], "what the same took in earlier runs here"
    if stage.device.kind is DeviceKind.CPU and work in usual.stages:
        return usual.stages[work], f"what the same took in {usual.basis}"
    if stage.device.kind is DeviceKind.CUDA and (cost := _of_shape(stage, usual, setup)) is not None:
        return cost, f"what the method took for random weights of this size on an {setup.device.model}"
    return None, ""


def expected_costs(
    setup: Setup, stages: Sequence[Stage], usual: UsualCosts | None = None
) -> dict[str, tuple[Cost | None, str]]:
    """Of each stage, by its id, what `cost_of` says."""
    usual = usual or usual_costs()
    works = {stage.id: work_of(stage, setup) for stage in stages}
    here = measured_here(setup.store, setup.device.model, set(works.values()))
    return {stage.id: cost_of(stage, works[stage.id], here, usual, setup) for stage in stages}


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
