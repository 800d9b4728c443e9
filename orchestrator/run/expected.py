"""How long each stage is taken to last where the order of stages hangs on it: what is known, else what is assumed.

An assumption makes no figure: it says only what should begin first where several devices are there.
"""

from collections.abc import Mapping, Sequence

from harness.contract import Operation
from orchestrator.run.costs import expected_costs
from orchestrator.run.run import Setup
from orchestrator.stages import Stage

_ASSUMED_SECONDS: Mapping[Operation, tuple[float, float]] = {
    Operation.FETCH: (5, 8),
    Operation.COMPRESS: (15, 10),
    Operation.EXPORT: (5, 3),
    Operation.EVALUATE: (15, 4),
    Operation.STATES: (15, 4),
    Operation.FIDELITY: (15, 4),
    Operation.PROFILE: (20, 2),
    Operation.BENCHMARK: (60, 2),
}
"""Of any model, and for each billion of its parameters: of the order of what an H200 takes, with 250 MB/s to the hub
and 1.5 GB/s to the disk."""
_ASSUMED_PARAMETERS = 7e9


def expected_seconds(setup: Setup, stages: Sequence[Stage], *, several_hosts: bool = False) -> dict[str, float]:
    """Of each stage, by its id. Nothing is looked up where there is but one device, and so nothing to choose."""
    if len(setup.device.device.uuids) < 2 and not several_hosts:
        return {}
    costs = expected_costs(setup, stages)
    sizes = {model.name: model.parameters or _ASSUMED_PARAMETERS for model in setup.manifest.models}
    seconds = {}
    for stage in stages:
        cost, _ = costs[stage.id]
        known = None if cost is None else cost.seconds
        parameters = 0.0 if stage.subject is None else sizes[stage.subject.model]
        seconds[stage.id] = _assumed(stage, parameters) if known is None else known
    return seconds


def _assumed(stage: Stage, parameters: float) -> float:
    always, a_billion = _ASSUMED_SECONDS[stage.operation]
    return always + a_billion * parameters / 1e9
