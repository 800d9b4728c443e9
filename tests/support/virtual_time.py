"""Stages that take time which nobody has to wait for: the executor's own choices, without its threads."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.contract import CompressParameters, Operation
from orchestrator.run.lanes import Lanes, Placed, lanes_of
from orchestrator.run.queue import Queue, demand_of, remaining_seconds
from orchestrator.stages import Stage

_BILLION_AT_7B = 6.7
_COMPRESS_SECONDS_AT_7B = {
    "wanda": 18,
    "smoothquant": 11,
    "sparsegpt": 28,
    "gptq": 31,
    "awq": 59,
    "llm-pruner": 120,
    "omniquant": 2900,
    "magnitude": 18,
    "rtn": 11,
}
"""On an H200 by the README's figures; OmniQuant's authors name 1.6 h on an A100, halved here; LLM-Pruner and the
baselines are assumed."""
_HUB_BYTES_PER_SECOND, _DISK_BYTES_PER_SECOND = 250e6, 1.5e9
_TOKENS, _TOKENS_PER_SECOND_AT_7B = 340e3, 16e3


def assumed_seconds(stages: Sequence[Stage], parameters: Mapping[str, int | None]) -> dict[str, float]:
    """Of each stage, by its id, on one H200; `parameters` are the models'."""
    return {stage.id: _assumed(stage, parameters) for stage in stages}


def _assumed(stage: Stage, parameters: Mapping[str, int | None]) -> float:
    if stage.subject is None:
        return 10.0
    billions = (parameters[stage.subject.model] or 7e9) / 1e9
    size, times = 2e9 * billions, billions / _BILLION_AT_7B
    match stage.operation:
        case Operation.FETCH:
            return size / _HUB_BYTES_PER_SECOND
        case Operation.COMPRESS:
            assert isinstance(stage.parameters, CompressParameters)
            return _COMPRESS_SECONDS_AT_7B[stage.parameters.method] * times + 2 * size / _DISK_BYTES_PER_SECOND + 15
        case Operation.EXPORT:
            return 2 * size / _DISK_BYTES_PER_SECOND + 5
        case Operation.EVALUATE:
            return 15 + size / _DISK_BYTES_PER_SECOND + times * _TOKENS / _TOKENS_PER_SECOND_AT_7B
        case Operation.PROFILE:
            return 20 + size / _DISK_BYTES_PER_SECOND
        case _:
            return 60 + size / _DISK_BYTES_PER_SECOND


@dataclass
class Simulated:
    """`order` has the stages as they started, each on the devices that it got; `busy` is by lane."""

    seconds: float = 0.0
    order: list[Stage] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=dict)


def simulate(
    stages: Sequence[Stage], seconds: Mapping[str, float], expected: Mapping[str, float] | None = None
) -> Simulated:
    """Run stages that take `seconds`, and are `expected` to take what orders them. All of them succeed."""
    queue = Queue(stages, (), expected)
    lanes = Lanes({"": lanes_of(stages)})
    found = Simulated()
    ends: list[tuple[float, int, Placed]] = []
    while len(queue):
        while (placed := lanes.next_of(queue)) is not None:
            stage = placed.stage
            found.order.append(stage)
            for name in demand_of(stage).names:
                found.busy[name] = found.busy.get(name, 0.0) + seconds[stage.id]
            heapq.heappush(ends, (found.seconds + seconds[stage.id], len(found.order), placed))
        found.seconds, _, ended = heapq.heappop(ends)
        lanes.leave(ended)
        assert list(queue.end(ended.stage.id, succeeded=True)) == []
    return found


def least_seconds(stages: Sequence[Stage], seconds: Mapping[str, float], devices: int, fetches: int = 2) -> float:
    """What no order can go below: the longest path, and the work of the devices and of the lanes that fetch."""
    fetching = sum(seconds[stage.id] for stage in stages if stage.operation is Operation.FETCH)
    computing = sum(seconds[stage.id] for stage in stages) - fetching
    return max(*remaining_seconds(stages, seconds).values(), computing / devices, fetching / fetches)
